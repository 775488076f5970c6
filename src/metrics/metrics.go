// Package metrics serves Prometheus metrics and profiles over HTTP.
//
// It promises that a metrics listener that fails or is asked too much never
// disturbs the program that it measures.
package metrics

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	vm "github.com/VictoriaMetrics/metrics"
)

// Handler answers GET /metrics with the sets and with the process's own figures
// (CPU, memory, open files, Go's runtime), in the Prometheus text format.
func Handler(sets ...*vm.Set) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		for _, s := range sets {
			s.WritePrometheus(w)
		}
		vm.WriteProcessMetrics(w)
	})
	return mux
}

// HandleProfiles adds GET /debug/pprof/ to mux, as go tool pprof and curl ask for
// it: CPU profiles and traces of the running process, its heap and goroutines. It
// is for sockets that only operators reach.
func HandleProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}

// Serve answers requests on addr (host:port) until ctx is done, and returns
// then. "" is no listener: it returns at once. An address that can't be listened
// on is logged and tried again every ten seconds: it is no reason to stop.
func Serve(ctx context.Context, addr string, h http.Handler, log *slog.Logger) {
	if addr == "" {
		return
	}
	last := ""
	for ctx.Err() == nil {
		err := listen(ctx, addr, h)
		if ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != last {
			log.Error("can't serve metrics, trying again every 10 s (metrics_listen)", "address", addr, "err", text)
			last = text
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
		}
	}
}

func listen(ctx context.Context, addr string, h http.Handler) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s := &http.Server{
		Handler:           http.TimeoutHandler(h, 10*time.Second, ""),
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return ctx.Err()
}
