package catalog

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cis490/src/episode"
)

func TestChecks(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "c.sqlite"))
	rows := make([]Row, 2*portion)
	for i := range rows {
		rows[i] = row([]string{"a", "b"}[i%2], noon)
		rows[i].CheckedAt = noon.Add(time.Duration(len(rows)-i) * time.Second)
	}
	fresh := row("a", noon)
	fresh.CheckedAt = time.Time{}
	if err := c.Insert(ctx, append(rows[:len(rows):len(rows)], fresh)); err != nil {
		t.Fatal(err)
	}
	if r, _, err := c.Lookup(ctx, fresh.Facts.ID); err != nil || r.CheckedAt != r.Receipt.StoredAt {
		t.Errorf("a new row was checked at %s, stored at %s: %v", r.CheckedAt, r.Receipt.StoredAt, err)
	}
	if at, found, err := c.OldestCheck(ctx); err != nil || !found || !at.Equal(noon.Add(time.Second)) {
		t.Errorf("oldest check %s %v %v", at, found, err)
	}
	// What is checked goes to the end, so that a listing under way ends.
	now := noon.Add(time.Hour)
	seen := 0
	for r, err := range c.Unchecked(ctx, now, now, "") {
		if err != nil {
			t.Fatal(err)
		}
		if want := rows[len(rows)-1-seen].Facts.ID; r.Facts.ID != want {
			t.Fatalf("number %d is %s, want %s", seen, r.Facts.ID, want)
		}
		seen++
		damaged := ""
		if seen%100 == 0 {
			damaged = "rot"
		}
		if err := c.SetChecked(ctx, []Check{{ID: r.Facts.ID, At: now, Damaged: damaged}}); err != nil {
			t.Fatal(err)
		}
	}
	if seen != len(rows) {
		t.Errorf("%d of %d were to be checked", seen, len(rows))
	}
	if n := len(collect(t, c.Unchecked(ctx, now, now, ""))); n != 0 {
		t.Errorf("%d are to be checked again", n)
	}
	if got := collect(t, c.Unchecked(ctx, now.Add(1e6), now, "")); len(got) != 10 || got[0].Damaged != "rot" {
		t.Errorf("%d damaged ones are to be checked again, want 10", len(got))
	}
	n, some, err := c.Damaged(ctx, "", 3)
	if err != nil || n != 10 || len(some) != 3 || some[0].Facts.ID.Compare(some[1].Facts.ID) >= 0 {
		t.Errorf("%d damaged, %d named: %v", n, len(some), err)
	}
	if n, some, err := c.Damaged(ctx, "b", 20); err != nil || n != 0 || len(some) != 0 {
		t.Errorf("%d damaged of b, %d named: %v", n, len(some), err)
	}
	if err := c.SetChecked(ctx, []Check{{ID: episode.NewID(), At: now}}); err != nil {
		t.Error(err)
	}
	if err := c.Check(ctx); err != nil {
		t.Error(err)
	}
}

// A damaged row makes way for the same content, and for no other.
func TestSoundTakesTheDamagedPlace(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "c.sqlite"))
	r := row("h", noon)
	if err := c.Insert(ctx, []Row{r}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetChecked(ctx, []Check{{ID: r.Facts.ID, At: noon, Damaged: "rot"}}); err != nil {
		t.Fatal(err)
	}
	other, again := r, r
	other.Facts.Digest[0]++
	again.Receipt.ArchiveSize++
	if err := c.Insert(ctx, []Row{other}); err != nil {
		t.Fatal(err)
	}
	if got, _, err := c.Lookup(ctx, r.Facts.ID); err != nil || got.Damaged != "rot" {
		t.Errorf("another content took its place: %+v, %v", got, err)
	}
	if err := c.Insert(ctx, []Row{again}); err != nil {
		t.Fatal(err)
	}
	if got, _, err := c.Lookup(ctx, r.Facts.ID); err != nil || got != again {
		t.Error(cmp.Diff(again, got), err)
	}
	if h, err := c.Hosts(ctx); err != nil || len(h) != 1 || h[0].Episodes != 1 || h[0].Bytes != again.Receipt.ArchiveSize {
		t.Errorf("%+v, %v", h, err)
	}
}

// A catalogue of the first schema is brought up to date where it is.
func TestMigration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sqlite")
	db, err := connect(path, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	old := `CREATE TABLE episodes (id BLOB PRIMARY KEY NOT NULL, host TEXT NOT NULL, digest BLOB NOT NULL, started INTEGER NOT NULL, ended INTEGER NOT NULL,
		size INTEGER NOT NULL, files INTEGER NOT NULL, archive_size INTEGER NOT NULL, stored_at INTEGER NOT NULL, receiver_version TEXT NOT NULL,
		window_id TEXT NOT NULL, outcome TEXT NOT NULL, workload TEXT NOT NULL) WITHOUT ROWID;
		CREATE INDEX episodes_by_start ON episodes (started);
		CREATE INDEX episodes_by_host ON episodes (host, started);
		CREATE TABLE hosts (name TEXT PRIMARY KEY NOT NULL, episodes INTEGER NOT NULL, bytes INTEGER NOT NULL, last_stored INTEGER NOT NULL) WITHOUT ROWID;
		CREATE TABLE state (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID;
		INSERT INTO state VALUES ('complete', 1);
		PRAGMA application_id = 0x63343930; PRAGMA user_version = 1`
	if _, err := db.Exec(old); err != nil {
		t.Fatal(err)
	}
	want := row("h", noon)
	v := values(&want)
	if _, err := db.Exec(`INSERT INTO episodes VALUES (`+strings.Repeat("?,", 12)+`?)`, v[:13]...); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c := open(t, path)
		want.CheckedAt = want.Receipt.StoredAt
		if got, found, err := c.Lookup(ctx, want.Facts.ID); err != nil || !found || got != want {
			t.Error(cmp.Diff(want, got), found, err)
		}
		if whole, err := c.Complete(ctx); !whole || err != nil {
			t.Errorf("complete %v, %v", whole, err)
		}
		// A new catalogue and one brought up to date are the same.
		fresh := open(t, filepath.Join(t.TempDir(), "new.sqlite"))
		if diff := cmp.Diff(columnsOf(t, fresh.read), columnsOf(t, c.read)); diff != "" {
			t.Error(diff)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func columnsOf(t *testing.T, db *sql.DB) (out []string) {
	t.Helper()
	rows, err := db.Query(`SELECT name || ' ' || type || ' ' || "notnull" || ' ' || coalesce(dflt_value, '-') FROM pragma_table_info('episodes')
		UNION ALL SELECT name || coalesce(substr(sql, instr(sql, '(')), '') FROM sqlite_schema WHERE type = 'index' ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}
