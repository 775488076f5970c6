package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cis490/src/code"
)

// The same tar bytes come from any offset, at any level, with any number of workers.
func TestStreamResumesAnywhere(t *testing.T) {
	c := makeContent(t, tree{"a": mixed(1, FrameSize+77), "b": telemetry(2, 100_000), "c/d": noise(3, FrameSize), "e": nil})
	want := c.tar(t)
	pl := plan(t, c.write(t))
	rapid.Check(t, func(rt *rapid.T) {
		p := NewPacker(Options{Workers: rapid.IntRange(1, 3).Draw(rt, "workers"), Level: Level(rapid.IntRange(int(Auto), int(Default)).Draw(rt, "level"))})
		from := rapid.OneOf(rapid.Int64Range(0, pl.TarSize()), rapid.Map(rapid.Int64Range(0, 2), func(i int64) int64 { return i * FrameSize })).Draw(rt, "from")
		packed, frames := stream(t, p, pl, from)
		if !bytes.Equal(unpack(t, packed), want[from:]) {
			rt.Fatal("other tar bytes")
		}
		at := from
		for i, f := range frames {
			if at += f.Content; at%FrameSize != 0 && i < len(frames)-1 {
				rt.Fatalf("frame %d ends at %d", i, at)
			}
		}
		scanned, valid, err := ScanFrames(bytes.NewReader(packed))
		if err != nil || valid != int64(len(packed)) || !slices.Equal(scanned, frames) {
			rt.Fatalf("scanned %v, %v; packed %v", scanned, err, frames)
		}
		idle(t, p)
	})
}

// Of what a link carries between two cuts about half is kept, however little it is.
func TestSlowStart(t *testing.T) {
	c := makeContent(t, tree{"a": noise(1, 5*FrameSize)})
	want := c.tar(t)
	pl := plan(t, c.write(t))
	for _, from := range []int64{0, FrameSize / 2, 3*FrameSize - 1} {
		p := NewPacker(Options{Workers: 2})
		s := p.Stream(context.Background(), pl, from)
		s.SlowStart()
		packed, frames := taken(t, s)
		if !bytes.Equal(unpack(t, packed), want[from:]) {
			t.Fatal("other tar bytes")
		}
		at := from
		for i, f := range frames {
			if before := at - from; f.Content > max(slowStart, before) {
				t.Errorf("from %d: frame %d is of %d bytes behind %d", from, i, f.Content, before)
			}
			at += f.Content
		}
		if n := len(frames); frames[n-2].Content != FrameSize {
			t.Errorf("from %d: the last whole frame is of %d bytes", from, frames[n-2].Content)
		}
		idle(t, p)
	}
}

// idle makes sure that a packer has everything back.
func idle(t testing.TB, p *Packer) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for len(p.extra) > 0 || len(p.encoders) < cap(p.encoders) {
		if time.Now().After(deadline) {
			t.Fatalf("%d frames are still under way, %d of %d encoders are there", len(p.extra), len(p.encoders), cap(p.encoders))
		}
		runtime.Gosched()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept > p.maxKept {
		t.Errorf("%d bytes are kept, at most %d should be", p.kept, p.maxKept)
	}
}

func TestSmall(t *testing.T) {
	c := makeContent(t, tree{"a": telemetry(1, 40_000), "b": nil, "c": noise(2, 10_000)})
	pl := plan(t, c.write(t))
	for level := Auto; level <= Default; level++ {
		p := NewPacker(Options{Workers: 1, Level: level})
		for range 3 {
			f, err := p.Small(pl)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(unpack(t, f.Data), c.tar(t)) || f.Len != int(pl.TarSize()) || f.Offset != 0 || level != Auto && f.Level != level {
				t.Errorf("%v: frame of %d at %d, level %v", level, f.Len, f.Offset, f.Level)
			}
			f.Release()
			f.Release() // twice is harmless
		}
		if p.small.active != 0 {
			t.Errorf("%v: %d small frames are under way", level, p.small.active)
		}
		idle(t, p)
	}
	large := plan(t, makeContent(t, tree{"a": make([]byte, FrameSize)}).write(t))
	if _, err := NewPacker(Options{}).Small(large); err == nil {
		t.Error("more than a frame is small")
	}
}

func TestStreamsAtOnce(t *testing.T) {
	p := NewPacker(Options{Workers: 2})
	var wg sync.WaitGroup
	for i := range 6 {
		c := makeContent(t, tree{"a": mixed(uint64(i), 2*FrameSize+i*1000), "b": telemetry(uint64(i), 100_000)})
		small := makeContent(t, tree{"a": telemetry(uint64(i), 50_000)})
		pl, sp := plan(t, c.write(t)), plan(t, small.write(t))
		want, swant := c.tar(t), small.tar(t)
		wg.Go(func() {
			for range 3 {
				packed, _ := stream(t, p, pl, 0)
				if !bytes.Equal(unpack(t, packed), want) {
					t.Error("a stream differs")
				}
				p.LinkSample(len(packed), time.Millisecond)
			}
		})
		wg.Go(func() {
			for range 10 {
				f, err := p.Small(sp)
				if err != nil || !bytes.Equal(unpack(t, f.Data), swant) {
					t.Error("a small frame differs", err)
				}
				f.Release()
			}
		})
	}
	wg.Wait()
	idle(t, p)
	if p.bulk.active != 0 || p.small.active != 0 {
		t.Errorf("%d streams and %d small frames are left open", p.bulk.active, p.small.active)
	}
}

// A stream that is not read holds only so much, and others go on beside it.
func TestStreamsDoNotStarve(t *testing.T) {
	p := NewPacker(Options{Workers: 1, Level: Fastest})
	pl := plan(t, makeContent(t, tree{"a": mixed(1, 6*FrameSize)}).write(t))
	greedy := p.Stream(context.Background(), pl, 0)
	defer greedy.Close()
	first, err := greedy.Next()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Release()
	for len(p.extra) < cap(p.extra) { // it takes all that is to be had
		runtime.Gosched()
	}
	if n := len(greedy.jobs); n > p.perJob {
		t.Errorf("%d frames are under way, at most %d may be", n, p.perJob)
	}
	packed, _ := stream(t, p, pl, 0)
	if len(packed) == 0 {
		t.Error("no stream beside a greedy one")
	}
}

// A read that hangs costs its own stream, no other, and ends with it.
func TestHungRead(t *testing.T) {
	before := runtime.NumGoroutine()
	p := NewPacker(Options{Workers: 1, Level: Fastest})
	pl := plan(t, makeContent(t, tree{"a": mixed(1, 4*FrameSize)}).write(t))
	hang, hung := make(chan struct{}), make(chan struct{})
	var once sync.Once
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	s := p.Stream(ctx, pl, 0)
	s.Progress = func(int) { // as the disk would
		once.Do(func() { close(hung) })
		<-hang
	}
	got := make(chan error)
	go func() { _, err := s.Next(); got <- err }()
	<-hung
	for range 3 {
		stream(t, p, pl, 0)
	}
	stalled := errors.New("stalled")
	cancel(stalled)
	if err := <-got; !errors.Is(err, stalled) {
		t.Errorf("error %v, want the cause of the cancelling", err)
	}
	if _, err := s.Next(); !errors.Is(err, stalled) {
		t.Errorf("and again: %v", err)
	}
	s.Close()
	pl.Close()
	close(hang)
	idle(t, p)
	noMoreGoroutines(t, before)
}

func noMoreGoroutines(t *testing.T, before int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("goroutines are left:\n%s", buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(time.Millisecond)
	}
}

func TestStreamEndsPromptly(t *testing.T) {
	before := runtime.NumGoroutine()
	p := NewPacker(Options{Workers: 2})
	pl := plan(t, makeContent(t, tree{"a": mixed(1, 5*FrameSize)}).write(t))
	for i := range 40 {
		ctx, cancel := context.WithCancel(context.Background())
		s := p.Stream(ctx, pl, 0)
		var held []Frame
		for range i % 5 {
			f, err := s.Next()
			if err != nil {
				t.Fatal(err)
			}
			if held = append(held, f); i%2 == 0 {
				f.Release()
			}
		}
		switch i % 3 {
		case 0:
			cancel()
			if _, err := s.Next(); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want the context's", err)
			}
		case 1:
			time.Sleep(time.Duration(i) * 100 * time.Microsecond)
		}
		s.Close()
		s.Close()
		if _, err := s.Next(); err == nil {
			t.Error("a closed stream gives frames")
		}
		for _, f := range held { // good after Close
			if i%2 == 1 && len(unpack(t, f.Data)) != f.Len {
				t.Error("a frame went with its stream")
			}
			f.Release()
		}
		cancel()
	}
	idle(t, p)
	noMoreGoroutines(t, before)
	if p.bulk.active != 0 {
		t.Errorf("%d streams are left open", p.bulk.active)
	}
}

func TestStreamReportsProgress(t *testing.T) {
	c := makeContent(t, tree{"a": mixed(1, FrameSize+FrameSize/2), "b": nil})
	pl := plan(t, c.write(t))
	s := NewPacker(Options{Workers: 1}).Stream(context.Background(), pl, 0)
	defer s.Close()
	total := 0
	s.Progress = func(n int) {
		if n <= 0 || n > readSize {
			t.Errorf("a step of %d bytes", n)
		}
		total += n
	}
	for {
		f, err := s.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Release()
	}
	want := int(pl.Facts().Size)
	for _, b := range c.tags {
		want += len(b)
	}
	if total != want {
		t.Errorf("progress of %d bytes, want %d", total, want)
	}
	if _, err := s.Next(); err != io.EOF {
		t.Errorf("behind the end: %v", err)
	}
	bad := NewPacker(Options{Workers: 1}).Stream(context.Background(), pl, pl.TarSize()+1)
	defer bad.Close()
	if _, err := bad.Next(); err == nil || err == io.EOF {
		t.Errorf("an offset behind the end: %v", err)
	}
	end := NewPacker(Options{Workers: 1}).Stream(context.Background(), pl, pl.TarSize())
	defer end.Close()
	if _, err := end.Next(); err != io.EOF {
		t.Errorf("an offset at the end: %v", err)
	}
}

func TestStreamReportsWhatChanged(t *testing.T) {
	c := makeContent(t, tree{"a": mixed(1, 2*FrameSize), "z": []byte("z")})
	dir := c.write(t)
	pl := plan(t, dir)
	writeFile(t, dir+"/data/z", []byte("longer"))
	s := NewPacker(Options{Workers: 2}).Stream(context.Background(), pl, 0)
	defer s.Close()
	n := 0
	for {
		f, err := s.Next()
		if err != nil {
			if codeOf(err) != code.Damaged || n != 2 {
				t.Errorf("after %d frames: %v", n, err)
			}
			if _, again := s.Next(); again != err {
				t.Errorf("and then %v", again)
			}
			return
		}
		n++
		f.Release()
	}
}

func TestLevels(t *testing.T) {
	for l := Auto; l <= Default; l++ {
		if got, err := ParseLevel(l.String()); got != l || err != nil {
			t.Errorf("%v comes back as %v, %v", l, got, err)
		}
	}
	if _, err := ParseLevel("best"); err == nil {
		t.Error("an unknown level is accepted")
	}
	if s := fmt.Sprint(Level(9)); s != "Level(9)" {
		t.Error(s)
	}
}
