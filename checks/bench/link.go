package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rate is in bits per second.
type rate int64

func (r rate) String() string {
	if r >= 1e9 {
		return strconv.Itoa(int(r/1e9)) + " Gbit/s"
	}
	return strconv.Itoa(int(r/1e6)) + " Mbit/s"
}

var linkRates = []rate{1e9, 1e8, 1e7}

const (
	linkDelay = 20 * time.Millisecond  // round trip
	linkQueue = 100 * time.Millisecond // worth of data; a packet more is dropped
)

// links is W5: as many episodes of W2 as fill the link for a while, to those
// peers that compress. (What does not can't beat the link's own rate, which each
// of these does.)
func (b *bench) links(ctx context.Context) error {
	if os.Geteuid() != 0 {
		b.skip("W5: network namespaces take root")
		return nil
	}
	var compressing []contender
	for _, c := range b.all {
		switch c.name {
		case oursName, rsyncZstd, tusdName, resticName, spawnedName:
			compressing = append(compressing, c)
		}
	}
	seconds := 30
	if b.quick {
		seconds = 5
	}
	for _, r := range linkRates {
		s := shape{max(1, int(int64(r)/8*int64(seconds)/(16<<20))), 8, 2 << 20}
		if err := b.overLink(ctx, r, s, compressing); err != nil {
			return err
		}
		b.printTransfers("W5", r.String(), s)
	}
	return nil
}

func (b *bench) overLink(ctx context.Context, r rate, s shape, contenders []contender) error {
	l, err := newLink(ctx, r)
	if err != nil {
		return err
	}
	defer l.close()
	return b.transfers(ctx, "W5", r.String(), s, contenders, l)
}

// link is two network namespaces, a client's and a server's, with a shaped link
// between them: IP packets go from one TUN device to the other through this
// process, at a rate and after a delay, with TCP none the wiser.
type link struct {
	ends  [2]*end
	port  int
	pumps sync.WaitGroup
}

const clientEnd, serverEnd = 0, 1

// end is one namespace, held by a process that sleeps in it.
type end struct {
	holder *exec.Cmd
	path   string
	ip     string
	tun    *os.File
}

func newLink(ctx context.Context, r rate) (_ *link, err error) {
	l := &link{port: 20000}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	mtu := "1500"
	if r >= 1e9 {
		mtu = "9000" // this process has to keep up
	}
	for i := range l.ends {
		e := &end{ip: fmt.Sprintf("10.49.0.%d", i+1), holder: exec.Command("sleep", "infinity")}
		e.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		if err := e.holder.Start(); err != nil {
			return nil, fmt.Errorf("make a network namespace: %w", err)
		}
		e.path = fmt.Sprintf("/proc/%d/ns/net", e.holder.Process.Pid)
		l.ends[i] = e
		if err := inNamespace(e.path, func() (err error) { e.tun, err = openTUN(); return err }); err != nil {
			return nil, fmt.Errorf("make a TUN device: %w", err)
		}
		for _, args := range [][]string{
			{"ip", "link", "set", "lo", "up"},
			{"ip", "addr", "add", e.ip, "peer", fmt.Sprintf("10.49.0.%d", 2-i), "dev", tunName},
			{"ip", "link", "set", tunName, "mtu", mtu, "up"},
		} {
			argv := e.within(args)
			if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
				return nil, fmt.Errorf("%v: %w: %s", args, err, out)
			}
		}
	}
	l.pumps.Go(func() { pump(l.ends[clientEnd].tun, l.ends[serverEnd].tun, r) })
	l.pumps.Go(func() { pump(l.ends[serverEnd].tun, l.ends[clientEnd].tun, r) })
	return l, nil
}

func (l *link) close() {
	for _, e := range l.ends {
		if e == nil {
			continue
		}
		if e.tun != nil {
			_ = e.tun.Close() // nothing is written any more
		}
		_ = e.holder.Process.Kill()
		_ = e.holder.Wait() // killed
	}
	l.pumps.Wait()
}

func (e *end) within(argv []string) []string {
	return append([]string{"nsenter", "--net=" + e.path}, argv...)
}

func (l *link) atClient(argv []string) []string { return l.ends[clientEnd].within(argv) }
func (l *link) atServer(argv []string) []string { return l.ends[serverEnd].within(argv) }

func (l *link) address() (string, error) {
	l.port++
	return net.JoinHostPort(l.ends[serverEnd].ip, strconv.Itoa(l.port)), nil
}

func (l *link) dialServer(address string) (c net.Conn, err error) {
	nerr := inNamespace(l.ends[serverEnd].path, func() error { c, err = net.Dial("tcp", address); return nil })
	return c, errors.Join(nerr, err)
}

// inNamespace runs f on a thread that is in that network namespace and ends with it.
func inNamespace(path string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is of no more use
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			_ = unix.Close(fd) // only read
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

const tunName = "tun0"

func openTUN() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(tunName)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		_ = unix.Close(fd) // the other error counts
		return nil, err
	}
	return os.NewFile(uintptr(fd), tunName), nil
}

// pump carries packets until a device is closed.
func pump(from, to *os.File, r rate) {
	type packet struct {
		data []byte
		due  time.Time
	}
	queue := make(chan packet, 1<<14)
	var writer sync.WaitGroup
	writer.Go(func() {
		for p := range queue {
			time.Sleep(time.Until(p.due))
			_, _ = to.Write(p.data) // lost, as packets are
		}
	})
	buf := make([]byte, 64<<10)
	var free time.Time // when the line is free again
	for {
		n, err := from.Read(buf)
		if err != nil {
			break
		}
		now := time.Now()
		if free.Before(now) {
			free = now
		}
		if free.Sub(now) > linkQueue || len(queue) == cap(queue) {
			continue
		}
		free = free.Add(time.Duration(int64(n) * 8 * int64(time.Second) / int64(r)))
		queue <- packet{append([]byte(nil), buf[:n]...), free.Add(linkDelay / 2)}
	}
	close(queue)
	writer.Wait()
}
