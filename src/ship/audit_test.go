package ship

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/wire"
)

// What the receiver holds no sound copy of any more is told once, again when it
// is something else, and when it is over.
func TestDamagedAtTheReceiverIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		s := newStandin()
		l.start(Deps{Transport: &direct{h: s}})
		defer l.stop()
		a, b := episode.NewID(), episode.NewID()
		told := 0
		for _, now := range []struct {
			d    wire.Damaged
			told int
		}{{wire.Damaged{}, 0}, {wire.Damaged{Count: 1, Episodes: []episode.ID{a}}, 1}, {wire.Damaged{Count: 1, Episodes: []episode.ID{b}}, 1}, {wire.Damaged{}, 0}} {
			s.mu.Lock()
			s.damaged = now.d
			s.mu.Unlock()
			time.Sleep(10 * time.Minute)
			told += now.told
			if n := strings.Count(l.log.String(), string(code.CopyDamaged)); n != told {
				t.Errorf("told %d times, want %d:\n%s", n, told, l.log)
			}
			st := l.ship.State()
			if (st.Poll.Damaged != nil) != (now.d.Count > 0) || strings.Contains(st.Summary, "1 damaged at the receiver") != (now.d.Count > 0) {
				t.Errorf("%+v: %q", st.Poll.Damaged, st.Summary)
			}
			w := httptest.NewRecorder()
			l.ship.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
			if want := []byte("cis490_shipper_damaged_at_receiver " + string('0'+rune(now.d.Count))); !bytes.Contains(w.Body.Bytes(), want) {
				t.Errorf("no %s", want)
			}
		}
		if !strings.Contains(l.log.String(), "all sound again") {
			t.Errorf("the end is not told:\n%s", l.log)
		}
	})
}
