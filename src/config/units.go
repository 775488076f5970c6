package config

// Size is an amount of bytes.
type Size int64
