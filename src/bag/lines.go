package bag

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// lineScanner reads lines that end in LF, each of at most max bytes, into one buffer, or from a text that is in memory without any.
type lineScanner struct {
	r    *bufio.Reader // nil when rest has all that is left
	rest []byte
	max  int
	cur  []byte
	long []byte
	line int
	err  error
}

func newLineScanner(r io.Reader, max int) *lineScanner {
	if m, ok := r.(memory); ok {
		return &lineScanner{rest: m.text, max: max}
	}
	br, ok := r.(*bufio.Reader)
	if !ok {
		br = bufio.NewReaderSize(r, 16<<10)
	}
	return &lineScanner{r: br, max: max}
}

// memory is a text that is in memory already, passed as the io.Reader that it is not.
type memory struct {
	io.Reader
	text []byte
}

// next is the next line with its LF, or io.EOF with what is left. It may be longer than max.
func (s *lineScanner) next() ([]byte, error) {
	if s.r == nil {
		i := bytes.IndexByte(s.rest, '\n')
		b := s.rest[:i+1]
		if i < 0 {
			b, s.rest = s.rest, nil
			return b, io.EOF
		}
		s.rest = s.rest[i+1:]
		return b, nil
	}
	b, err := s.r.ReadSlice('\n')
	if err != bufio.ErrBufferFull {
		return b, err
	}
	s.long = append(s.long[:0], b...)
	for err == bufio.ErrBufferFull && len(s.long) <= s.max {
		b, err = s.r.ReadSlice('\n')
		s.long = append(s.long, b...)
	}
	return s.long, err
}

func (s *lineScanner) scan() bool {
	if s.err != nil {
		return false
	}
	b, err := s.next()
	s.line++
	switch {
	case len(b) > s.max:
		s.err = &LineError{Line: s.line, Kind: Malformed, Err: fmt.Errorf("the line is longer than %d bytes", s.max)}
	case err == io.EOF && len(b) == 0:
		s.line--
		return false
	case err == io.EOF:
		s.err = &LineError{Line: s.line, Kind: Malformed, Err: fmt.Errorf("the last line does not end in LF")}
	case err != nil:
		s.err = err
	default:
		s.cur = bytes.TrimSuffix(b, []byte("\n"))
		return true
	}
	return false
}

func (s *lineScanner) bytes() []byte { return s.cur }
