// Package pack turns a sealed episode into the bytes that cross the network, and checks and unpacks such bytes.
//
// What crosses is a tar stream in a fixed order (tag files first, then the payload in the order of its manifest), cut into
// frames of [FrameSize] tar bytes, each an independent zstd frame. The package promises:
//
//   - the same episode gives the same tar bytes at any time and from any offset, without a spool file and without reading
//     what is before that offset, so that an upload is resumed by a count of tar bytes alone;
//   - memory is bounded by the number of workers, whatever the size of an episode, the number of its files or of uploads;
//   - nothing that a stranger sent is trusted before it is verified: [Verify] accepts exactly the streams that an intact episode
//     of the announced facts gives, and nothing is extracted to a path before the manifest has named it;
//   - stock `zstd -d | tar x` reads all that is written here.
package pack

import "cis490/src/bag"

// FrameSize is the number of tar bytes in each zstd frame but the last, and the first few after a resume: an episode of one frame crosses
// in one request. It is a MiB and some more, for what is recorded in buffers and blocks tends to come to a MiB, and the tag files and
// tar headers of such an episode are to fit in too.
const FrameSize = 1<<20 + 128<<10

// tagFiles are the tag files of an episode in the order of the stream.
var tagFiles = [...]string{bag.TagManifest, bag.Declaration, bag.InfoFile, bag.Manifest, bag.Files}

// manifestTag is the index of the payload manifest in tagFiles.
const manifestTag = 3

// runFile is the payload file that must be there.
const runFile = bag.PayloadDir + "/run.json"
