// Package e2e tests the programs as a whole, the way their users run them: real binaries, real directories, real sockets
// on 127.0.0.1, and tools that are not ours (zstd, tar, sha256sum, diff, find, curl) to judge what came out.
//
// It has no code but its tests. Sizes and durations that make a test slow are parameters of the environment; the figures in
// the name of a test are those of the normal run:
//
//	CIS490_E2E_BYTES   bytes of the episode that is cut forty times (default 256 MiB)
//	CIS490_E2E_OUTAGE  for how long each fault of the path lasts (default 3s); from 30s on with the shipper's own time-outs
//	CIS490_E2E_TRICKLE for how long an upload trickles (default 20s)
//	CIS490_SCALE       set: the tests of scale_test.go in full, which takes root, half an hour and 20 GB below TMPDIR
//	CIS490_E2E_IDLE    for how long TestScale watches an idle shipper (default 5s, in full 10m)
//	CIS490_E2E_HOSTILE at how many places a hostile host cuts and damages streams, and how many thousand files its episodes
//	                   of very many have (default 40)
package e2e
