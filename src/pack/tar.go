package pack

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"cis490/src/bag"
)

// The ustar header block (POSIX.1-1988, pax(1) "ustar Interchange Format").
const (
	blockSize = 512

	// endSize is what ends an archive: two blocks of zeros. Others pad the end to a record of 10 KiB.
	endSize    = 2 * blockSize
	recordSize = 20 * blockSize

	maxUstarName = 100
	maxUstarSize = 1<<33 - 1 // 11 octal digits
)

// padding is how many zero bytes follow a file of that size in a tar stream.
func padding(size int64) int64 { return -size & (blockSize - 1) }

// plainHeader tells whether one ustar block with no prefix can hold the header.
func plainHeader(id, path string, size int64) bool {
	if len(id)+1+len(path) > maxUstarName || size > maxUstarSize {
		return false
	}
	for i := 0; i < len(path); i++ {
		if path[i] >= 0x80 {
			return false
		}
	}
	return true
}

// headerTemplate is the block of an empty file without name and checksum.
var headerTemplate = func() (b [blockSize]byte) {
	copy(b[100:], "0000644\x00") // mode
	copy(b[108:], "0000000\x00") // uid
	copy(b[116:], "0000000\x00") // gid
	copy(b[124:], "00000000000\x00")
	copy(b[136:], "00000000000\x00") // mtime
	copy(b[148:], "        ")        // chksum counts as blanks
	b[156] = '0'
	copy(b[257:], "ustar\x0000")
	copy(b[329:], "0000000\x00") // devmajor
	copy(b[337:], "0000000\x00") // devminor
	return b
}()

var headerTemplateSum = blockSum(headerTemplate[:])

func blockSum(b []byte) (sum int) {
	for _, c := range b {
		sum += int(c)
	}
	return sum
}

// appendHeader appends the tar header of the regular file path in the directory id: one ustar block where that can hold it, else what archive/tar makes of it in the
// PAX format. An upload may be resumed by another version of this program, so the bytes must stay what they are.
func appendHeader(b []byte, id, path string, size int64) ([]byte, error) {
	if plainHeader(id, path, size) {
		b = append(b, headerTemplate[:]...)
		h := b[len(b)-blockSize:]
		copy(h, id)
		h[len(id)] = '/'
		copy(h[len(id)+1:], path)
		sum := headerTemplateSum + blockSum(h[:len(id)+1+len(path)])
		for i, v := 134, size; v > 0; i, v = i-1, v>>3 {
			h[i] = byte('0' + v&7)
			sum += int(v & 7)
		}
		for i, v := 153, sum; i >= 148; i, v = i-1, v>>3 {
			h[i] = byte('0' + v&7)
		}
		h[154] = 0
		return b, nil
	}
	var buf bytes.Buffer
	err := tar.NewWriter(&buf).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: id + "/" + path, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0),
	})
	if err != nil {
		return nil, fmt.Errorf("tar header of %s: %w", bag.Quote(path), err)
	}
	return append(b, buf.Bytes()...), nil
}

// headerSize is the length of appendHeader's result.
func headerSize(id, path string, size int64) (int64, error) {
	if plainHeader(id, path, size) {
		return blockSize, nil
	}
	b, err := appendHeader(nil, id, path, size)
	return int64(len(b)), err
}

// maxExtended bounds what may stand before a header to extend it: a name of bag.MaxPath bytes and the directory it is in, a size, and a few
// records that are passed over.
const maxExtended = 16 << 10

// errTrailer is what parseHeader returns for a block of zeros.
var errTrailer = errors.New("a block of zeros")

// entryHeader is one tar header as parseHeader understands it. Fields that the stream's order or the manifest decide (owner, times) are
// passed over.
type entryHeader struct {
	extended byte   // 'x' or 'L' when size bytes follow that extend the next header, 0 for a file
	name     []byte // aliases the block
	size     int64
}

// parseHeader reads a header block strictly: of a regular file, or of what extends the header of one. Everything that could make
// two readers of tar see different things is refused. name is memory for a name in two parts.
func parseHeader(b *[blockSize]byte, name []byte) (h entryHeader, err error) {
	sum := blockSum(b[:])
	if sum == 0 {
		return h, errTrailer
	}
	want, ok := octal(b[148:156])
	for _, c := range b[148:156] {
		sum += ' ' - int(c)
	}
	if !ok || int64(sum) != want {
		return h, errors.New("a tar header's checksum is wrong")
	}
	posix := string(b[257:265]) == "ustar\x0000"
	if !posix && string(b[257:265]) != "ustar  \x00" {
		return h, errors.New("a tar header is neither ustar nor GNU")
	}
	if h.size, ok = number(b[124:136]); !ok {
		return h, errors.New("a tar header has no valid size")
	}
	switch kind := b[156]; kind {
	case '0', 0:
	case 'x', 'L':
		if h.extended = kind; h.size > maxExtended {
			return h, fmt.Errorf("a tar header of %d bytes", h.size)
		}
		return h, nil
	default:
		what, ok := map[byte]string{'1': "a hard link", '2': "a symbolic link", '3': "a character device", '4': "a block device", '5': "a directory",
			'6': "a FIFO", '7': "a contiguous file", 'g': "a global header", 'K': "a long link", 'S': "a sparse file"}[kind]
		if !ok {
			what = fmt.Sprintf("an entry of type %q", kind)
		}
		return h, fmt.Errorf("the tar stream has %s: only regular files are allowed", what)
	}
	if mode, ok := number(b[100:108]); !ok || mode&^0o777 != 0 {
		return h, errors.New("a tar header has a mode with more than permissions")
	}
	for _, field := range [][]byte{b[108:116], b[116:124], b[136:148], b[329:337], b[337:345]} { // uid, gid, mtime, devmajor, devminor
		if _, ok := number(field); !ok && len(bytes.Trim(field, " \x00")) > 0 {
			return h, errors.New("a tar header has a number that is none")
		}
	}
	if b[157] != 0 {
		return h, errors.New("a tar header of a regular file names a link")
	}
	short := cString(b[0:100])
	prefix, rest := cString(b[345:500]), b[500:]
	if !posix { // GNU tar has sparse maps and more times here
		prefix, rest = nil, b[345:]
	}
	if blockSum(rest) != 0 {
		return h, errors.New("a tar header has bytes where there should be none")
	}
	if len(prefix) == 0 {
		h.name = short
		return h, nil
	}
	h.name = append(append(append(name, prefix...), '/'), short...)
	return h, nil
}

// cString is the text in b up to its first zero byte.
func cString(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}

// octal reads a number as ustar writes it: digits, before them blanks, behind them blanks or zero bytes.
func octal(b []byte) (n int64, ok bool) {
	b = bytes.TrimLeft(b, " ")
	b = bytes.TrimRight(b, " \x00")
	for _, c := range b {
		if c < '0' || c > '7' {
			return 0, false
		}
		n = n<<3 | int64(c-'0')
	}
	return n, len(b) > 0
}

// number reads an octal number or, as GNU tar writes larger ones, a positive one in base 256.
func number(b []byte) (n int64, ok bool) {
	if b[0]&0x80 == 0 {
		return octal(b)
	}
	if b[0] != 0x80 {
		return 0, false
	}
	for _, c := range b[1:] {
		if n > 1<<54 {
			return 0, false
		}
		n = n<<8 | int64(c)
	}
	return n, true
}

// paxRecords reads the records of an extended header ("%d key=value\n", pax(1)) and keeps path and size. Records that don't change which
// bytes belong to which name are passed over, any others are refused.
func paxRecords(b []byte) (path []byte, size int64, err error) {
	size = -1
	seen := map[string]bool{}
	for len(b) > 0 {
		sp := bytes.IndexByte(b[:min(len(b), 8)], ' ')
		if sp < 1 || b[0] < '1' || b[0] > '9' {
			return nil, 0, errors.New("a PAX record has no length")
		}
		n, err := strconv.Atoi(string(b[:sp]))
		if err != nil || n > len(b) || n < sp+4 || b[n-1] != '\n' {
			return nil, 0, errors.New("a PAX record has a wrong length")
		}
		key, value, ok := bytes.Cut(b[sp+1:n-1], []byte("="))
		b = b[n:]
		if !ok || len(value) == 0 || seen[string(key)] {
			return nil, 0, errors.New("a PAX record has no value, or is there twice")
		}
		seen[string(key)] = true
		switch string(key) {
		case "path":
			if bytes.IndexByte(value, 0) >= 0 {
				return nil, 0, errors.New("a PAX path has a zero byte")
			}
			path = value
		case "size":
			if !digits(value) {
				return nil, 0, errors.New("a PAX size is no number")
			}
			size, _ = strconv.ParseInt(string(value), 10, 64)
		case "uid", "gid":
			if !digits(value) {
				return nil, 0, errors.New("a PAX owner is no number")
			}
		case "mtime", "atime", "ctime":
			sec, frac, dot := bytes.Cut(bytes.TrimPrefix(value, []byte("-")), []byte("."))
			if !digits(sec) || dot && !digits(frac) {
				return nil, 0, errors.New("a PAX time is no number")
			}
		case "uname", "gname":
			if bytes.IndexByte(value, 0) >= 0 {
				return nil, 0, errors.New("a PAX owner has a zero byte")
			}
		default:
			return nil, 0, fmt.Errorf("the PAX record %.40q is not allowed", key)
		}
	}
	return path, size, nil
}

// digits tells whether b is a decimal number that fits int64 with certainty.
func digits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return 0 < len(b) && len(b) <= 18
}
