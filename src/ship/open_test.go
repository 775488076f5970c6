package ship

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cis490/src/episode"
)

// What sealing left in open/ is shown once it is a day old, said once, never touched, and forgotten when somebody has recovered it.
func TestSealingsThatWereCutOffAreShown(t *testing.T) {
	l := newLab(t)
	l.make(1, 100)
	open := filepath.Join(l.cfg.DataDir, "open")
	marker := func(age time.Duration) string {
		file := filepath.Join(open, episode.NewID().String()+".sealing")
		writeFile(t, file, `{"source":"/data/run"}`)
		at := time.Now().Add(-age)
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
		return file
	}
	old := []string{marker(25 * time.Hour), marker(49 * time.Hour)}
	marker(23 * time.Hour)
	l.start(Deps{Transport: &direct{h: newStandin()}})
	defer l.stop()
	eventually(t, 5*time.Second, "the left-overs to be seen", func() bool { return l.ship.State().Open.LeftOver == 2 })
	st := l.ship.State()
	if age := time.Since(*st.Open.Oldest); age < 48*time.Hour || age > 50*time.Hour || !strings.Contains(st.Summary, "2 cut off in open/") || st.Open.Error != "" {
		t.Errorf("%+v: %s", st.Open, st.Summary)
	}
	w := httptest.NewRecorder()
	l.ship.Metrics().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if !strings.Contains(w.Body.String(), "cis490_shipper_open_left_over 2\n") {
		t.Error("the metric does not say 2")
	}
	again := func() {
		l.ship.facts.mu.Lock()
		l.ship.facts.lookedAt = time.Time{}
		l.ship.facts.mu.Unlock()
		l.ship.lookAtOpen()
	}
	again()
	if n := strings.Count(l.log.String(), "cut off more than a day ago"); n != 1 || !strings.Contains(l.log.String(), "cis490-episode recover") {
		t.Errorf("said %d times:\n%s", n, l.log)
	}
	if _, err := os.Stat(old[0]); err != nil {
		t.Errorf("the shipper took it away: %v", err)
	}
	if _, err := episode.Recover(t.Context(), l.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	again()
	if st := l.ship.State(); st.Open.LeftOver != 0 || st.Open.Oldest != nil || strings.Contains(st.Summary, "open/") {
		t.Errorf("still %+v: %s", st.Open, st.Summary)
	}
}
