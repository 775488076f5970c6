package bag

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// lineScanner reads lines that end in LF, each of at most max bytes, into one buffer.
type lineScanner struct {
	r    *bufio.Reader
	max  int
	cur  []byte
	long []byte
	line int
	err  error
}

func newLineScanner(r io.Reader, max int) *lineScanner {
	br, ok := r.(*bufio.Reader)
	if !ok {
		br = bufio.NewReaderSize(r, 16<<10)
	}
	return &lineScanner{r: br, max: max}
}

func (s *lineScanner) scan() bool {
	if s.err != nil {
		return false
	}
	b, err := s.r.ReadSlice('\n')
	s.line++
	if err == bufio.ErrBufferFull {
		s.long = append(s.long[:0], b...)
		for err == bufio.ErrBufferFull && len(s.long) <= s.max {
			b, err = s.r.ReadSlice('\n')
			s.long = append(s.long, b...)
		}
		b = s.long
	}
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
