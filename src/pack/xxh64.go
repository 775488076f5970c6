package pack

import (
	"encoding/binary"
	"math/bits"
)

// xxh64 is the XXH64 hash with seed 0, whose low 32 bits are the checksum of a zstd frame (RFC 8878, section 3.1.1). The
// compressor keeps its own private; this one serves the frames that are written without it.
type xxh64 struct {
	v     [4]uint64
	total uint64
	mem   [32]byte
	n     int // bytes in mem
}

const (
	prime1 uint64 = 0x9E3779B185EBCA87
	prime2 uint64 = 0xC2B2AE3D27D4EB4F
	prime3 uint64 = 0x165667B19E3779F9
	prime4 uint64 = 0x85EBCA77C2B2AE63
	prime5 uint64 = 0x27D4EB2F165667C5
)

func (h *xxh64) reset() {
	p1, p2 := prime1, prime2 // variables: the sums wrap
	h.v = [4]uint64{p1 + p2, p2, 0, -p1}
	h.total, h.n = 0, 0
}

func xxhRound(acc, in uint64) uint64 {
	return bits.RotateLeft64(acc+in*prime2, 31) * prime1
}

func (h *xxh64) write(b []byte) {
	h.total += uint64(len(b))
	if h.n > 0 {
		k := copy(h.mem[h.n:], b)
		h.n += k
		if b = b[k:]; h.n < len(h.mem) {
			return
		}
		h.blocks(h.mem[:])
		h.n = 0
	}
	whole := len(b) &^ 31
	h.blocks(b[:whole])
	h.n = copy(h.mem[:], b[whole:])
}

func (h *xxh64) blocks(b []byte) {
	v0, v1, v2, v3 := h.v[0], h.v[1], h.v[2], h.v[3]
	for len(b) >= 32 {
		v0 = xxhRound(v0, binary.LittleEndian.Uint64(b[0:8:len(b)]))
		v1 = xxhRound(v1, binary.LittleEndian.Uint64(b[8:16:len(b)]))
		v2 = xxhRound(v2, binary.LittleEndian.Uint64(b[16:24:len(b)]))
		v3 = xxhRound(v3, binary.LittleEndian.Uint64(b[24:32:len(b)]))
		b = b[32:len(b):len(b)]
	}
	h.v = [4]uint64{v0, v1, v2, v3}
}

func (h *xxh64) sum() uint64 {
	acc := prime5
	if h.total >= 32 {
		acc = bits.RotateLeft64(h.v[0], 1) + bits.RotateLeft64(h.v[1], 7) + bits.RotateLeft64(h.v[2], 12) + bits.RotateLeft64(h.v[3], 18)
		for _, v := range h.v {
			acc = (acc^xxhRound(0, v))*prime1 + prime4
		}
	}
	acc += h.total
	b := h.mem[:h.n]
	for ; len(b) >= 8; b = b[8:] {
		acc = bits.RotateLeft64(acc^xxhRound(0, binary.LittleEndian.Uint64(b)), 27)*prime1 + prime4
	}
	if len(b) >= 4 {
		acc = bits.RotateLeft64(acc^uint64(binary.LittleEndian.Uint32(b))*prime1, 23)*prime2 + prime3
		b = b[4:]
	}
	for _, c := range b {
		acc = bits.RotateLeft64(acc^uint64(c)*prime5, 11) * prime1
	}
	acc = (acc ^ acc>>33) * prime2
	acc = (acc ^ acc>>29) * prime3
	return acc ^ acc>>32
}
