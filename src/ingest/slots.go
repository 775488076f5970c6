package ingest

import (
	"sync"
	"time"

	"cis490/src/code"
)

// slots bounds how many bodies of a kind are received at a time, per host and in
// all. A place is held from before the first byte of a body until its answer.
type slots struct {
	mu    sync.Mutex
	total int
	hosts map[string]int
}

const retryBusy = time.Second

// take gets a place for host. The caller gives it back with release.
func (s *slots) take(host string, max, maxPerHost int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var e *code.Error
	switch {
	case s.hosts[host] >= maxPerHost:
		e = code.New(code.ReceiverBusy, "this host has %d uploads under way, as many as limits.uploads_per_host allows", maxPerHost)
		e.RetryAfter = retryBusy
		return &refusal{err: e, status: statusTooManyRequests}
	case s.total >= max:
		e = code.New(code.ReceiverBusy, "%d uploads are under way, as many as limits.uploads allows", max)
		e.RetryAfter = retryBusy
		return e
	}
	s.total++
	s.hosts[host]++
	return nil
}

func (s *slots) release(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.hosts[host]--; s.hosts[host] == 0 {
		delete(s.hosts, host)
	}
}

func (s *slots) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}
