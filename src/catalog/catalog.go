// Package catalog is the receiver's index of stored episodes, in SQLite.
//
// What it promises: a row that Insert has returned for is on the disk; readers
// see a row only once it is. It is an index and nothing more: everything in it
// can be rebuilt from the store's sidecars, a damaged file is recognised as
// such ([IsCorrupt]), and a catalogue whose rebuilding was cut short says so
// ([Catalog.Complete]).
package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"strings"
	"time"

	"cis490/src/bag"
	"cis490/src/episode"
	"cis490/src/wire"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Row is one stored episode.
type Row struct {
	Facts    episode.Facts
	Receipt  wire.Receipt
	Outcome  string // of run.json
	Workload string // of run.json

	// Damaged says when the stored copy was found to be damaged, and how; "" is
	// a sound one. CheckedAt is when every byte of it was last compared with its
	// digests: at first, and when not given to Insert, when it was stored.
	Damaged   string
	CheckedAt time.Time
}

// Host sums up what one host has stored.
type Host struct {
	Name       string    `json:"name"`
	Episodes   int64     `json:"episodes"`
	Bytes      int64     `json:"bytes"` // of the archives
	LastStored time.Time `json:"last_stored"`
}

// Catalog is an open catalogue. Its methods may be called at the same time.
type Catalog struct {
	path          string
	write, read   *sql.DB
	lookup        *sql.Stmt
	insert, count *sql.Stmt
}

// errCorrupt is a catalogue that SQLite itself has no complaint about yet.
var errCorrupt = errors.New("the catalogue is damaged")

// IsCorrupt says whether err means that the file is not a catalogue, or not any more.
func IsCorrupt(err error) bool {
	if errors.Is(err, errCorrupt) {
		return true
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT:
		return true
	}
	return false
}

// IsFull says whether err means that there is no room for the catalogue to grow.
func IsFull(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_FULL
}

const (
	applicationID = 0x63343930 // "c490"
	schemaVersion = 2
)

// The primary key is the time-ordered id, so that new rows go to the end of
// the tree. The sums by host are kept, not counted: a listing of hosts must
// not read the history.
const schema = `
CREATE TABLE episodes (
	id BLOB PRIMARY KEY NOT NULL,
	host TEXT NOT NULL,
	digest BLOB NOT NULL,
	started INTEGER NOT NULL,          -- seconds since 1970, UTC
	ended INTEGER NOT NULL,
	size INTEGER NOT NULL,             -- payload bytes
	files INTEGER NOT NULL,
	archive_size INTEGER NOT NULL,     -- bytes
	stored_at INTEGER NOT NULL,        -- microseconds since 1970, UTC
	receiver_version TEXT NOT NULL,
	window_id TEXT NOT NULL,
	outcome TEXT NOT NULL,
	workload TEXT NOT NULL,
	damaged TEXT NOT NULL DEFAULT '',      -- '' is sound
	checked_at INTEGER NOT NULL DEFAULT 0  -- microseconds since 1970, UTC
) WITHOUT ROWID;
CREATE INDEX episodes_by_start ON episodes (started);
CREATE INDEX episodes_by_host ON episodes (host, started);
` + schemaChecks + `
CREATE TABLE hosts (
	name TEXT PRIMARY KEY NOT NULL,
	episodes INTEGER NOT NULL,
	bytes INTEGER NOT NULL,
	last_stored INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE state (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID;
`

// schemaChecks are the indexes of schema 2: what is to be checked next, and
// what was found damaged, which is little.
const schemaChecks = `CREATE INDEX episodes_by_check ON episodes (checked_at);
CREATE INDEX episodes_damaged ON episodes (host, id) WHERE damaged <> '';`

// migrations lead from each earlier schema to the next one.
var migrations = map[int64]string{
	1: `ALTER TABLE episodes ADD COLUMN damaged TEXT NOT NULL DEFAULT '';
ALTER TABLE episodes ADD COLUMN checked_at INTEGER NOT NULL DEFAULT 0;
UPDATE episodes SET checked_at = stored_at;
` + schemaChecks,
}

const columns = `id, host, digest, started, ended, size, files, archive_size, stored_at, receiver_version, window_id, outcome, workload, damaged, checked_at`

// Open opens the catalogue at path, or makes an empty one that is not Complete.
// It looks at the file's ends, never at the whole of it.
func Open(path string) (*Catalog, error) {
	c := &Catalog{path: path}
	if err := c.open(); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("open catalogue %s: %w", path, err)
	}
	return c, nil
}

func (c *Catalog) open() (err error) {
	// As every distribution's SQLite does: a commit overwrites its log in
	// place, and needs no commit of the file system's journal besides.
	if _, err := sqlite.Fdatasync(true); err != nil && !errors.Is(err, sqlite.ErrFdatasyncUnavailable) {
		return err
	}
	if c.write, err = connect(c.path, 1, false); err != nil {
		return err
	}
	if err := keepLog(c.write); err != nil {
		return err
	}
	var app, version, objects int64
	if err := c.write.QueryRow(`SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)`).Scan(&app, &version, &objects); err != nil {
		return err
	}
	switch {
	case app == 0 && version == 0 && objects == 0:
		err := tx(context.Background(), c.write, func(tx *sql.Tx) error {
			_, err := tx.Exec(fmt.Sprintf("%sPRAGMA application_id=%d; PRAGMA user_version=%d", schema, applicationID, schemaVersion))
			return err
		})
		if err != nil {
			return err
		}
	case app != applicationID:
		return fmt.Errorf("%w: it is another program's database (application_id %#x)", errCorrupt, app)
	case migrations[version] != "":
		err := tx(context.Background(), c.write, func(tx *sql.Tx) error {
			for ; version < schemaVersion; version++ {
				if _, err := tx.Exec(migrations[version]); err != nil {
					return err
				}
			}
			_, err := tx.Exec(fmt.Sprintf("PRAGMA user_version=%d", schemaVersion))
			return err
		})
		if err != nil {
			return fmt.Errorf("bring its schema up to version %d: %w", schemaVersion, err)
		}
	case version != schemaVersion:
		return fmt.Errorf("%w: its schema is version %d, this program's %d", errCorrupt, version, schemaVersion)
	}
	if err := c.probe(); err != nil {
		return err
	}
	if c.read, err = connect(c.path, 4, true); err != nil {
		return err
	}
	if c.lookup, err = c.read.Prepare(`SELECT ` + columns + ` FROM episodes WHERE id = ?`); err != nil {
		return err
	}
	if c.insert, err = c.write.Prepare(`INSERT INTO episodes (` + columns + `) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO NOTHING`); err != nil {
		return err
	}
	c.count, err = c.write.Prepare(`INSERT INTO hosts (name, episodes, bytes, last_stored) VALUES (?,?,?,?)
		ON CONFLICT (name) DO UPDATE SET episodes = episodes + excluded.episodes, bytes = bytes + excluded.bytes, last_stored = max(last_stored, excluded.last_stored)`)
	return err
}

// probe finds what a crash, a truncation or a stray write most likely leaves:
// a file shorter than its header says, and trees whose ends can't be walked.
func (c *Catalog) probe() error {
	// The log is folded in first, else the file may lawfully be behind its header.
	var busy, inLog, moved int64
	if err := c.write.QueryRow(`PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &inLog, &moved); err != nil {
		return err
	}
	var pages, pageSize int64
	if err := c.write.QueryRow(`SELECT (SELECT page_count FROM pragma_page_count), (SELECT page_size FROM pragma_page_size)`).Scan(&pages, &pageSize); err != nil {
		return err
	}
	if fi, err := os.Stat(c.path); err != nil {
		return err
	} else if busy == 0 && fi.Size() < pages*pageSize {
		return fmt.Errorf("%w: %d bytes long, its header says %d", errCorrupt, fi.Size(), pages*pageSize)
	}
	for _, q := range []string{ // each of these walks down one edge of one tree
		`SELECT min(id) FROM episodes`,
		`SELECT max(id) FROM episodes`,
		`SELECT min(started) FROM episodes`,
		`SELECT max(started) FROM episodes`,
		`SELECT min(host) FROM episodes`,
		`SELECT max(host) FROM episodes`,
		`SELECT min(checked_at) FROM episodes`,
		`SELECT max(checked_at) FROM episodes`,
		`SELECT sum(episodes) FROM hosts`,
		`SELECT sum(value) FROM state`,
	} {
		var v any
		if err := c.write.QueryRow(q).Scan(&v); err != nil {
			return err
		}
	}
	return nil
}

func connect(path string, conns int, readOnly bool) (*sql.DB, error) {
	// busy_timeout: another process may look into the catalogue.
	q := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "journal_size_limit(16777216)", "cache_size(-2048)", "temp_store(MEMORY)"}, "_dqs": {"0"}}
	if readOnly {
		q.Set("_query_only", "1")
	} else {
		q.Set("_txlock", "immediate")
	}
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// keepLog has the log's files stay when the catalogue is closed: on a full
// disk they could not be made again, and it could not even be read.
func keepLog(db *sql.DB) error {
	conn, err := db.Conn(context.Background())
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(c any) error {
		fc, ok := c.(sqlite.FileControl)
		if !ok {
			return fmt.Errorf("the SQLite driver's %T is no sqlite.FileControl", c)
		}
		_, err := fc.FileControlPersistWAL("main", 1)
		return err
	})
}

// Close closes the catalogue.
func (c *Catalog) Close() error {
	var errs []error
	for _, s := range []*sql.Stmt{c.lookup, c.insert, c.count} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	for _, db := range []*sql.DB{c.read, c.write} { // the writer last: it folds the log in
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Complete says whether the catalogue is known to list the whole store.
func (c *Catalog) Complete(ctx context.Context) (bool, error) {
	var v int64
	err := c.read.QueryRowContext(ctx, `SELECT value FROM state WHERE name = 'complete'`).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the catalogue's state: %w", err)
	}
	return v != 0, nil
}

// SetComplete records that the catalogue lists the whole store, or that it may not.
func (c *Catalog) SetComplete(ctx context.Context, complete bool) error {
	_, err := c.write.ExecContext(ctx, `INSERT INTO state (name, value) VALUES ('complete', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, complete)
	if err != nil {
		return fmt.Errorf("write the catalogue's state: %w", err)
	}
	return nil
}

// Lookup finds one episode.
func (c *Catalog) Lookup(ctx context.Context, id episode.ID) (Row, bool, error) {
	r, err := scan(c.lookup.QueryRowContext(ctx, id[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return Row{}, false, nil
	}
	if err != nil {
		return Row{}, false, fmt.Errorf("look up episode %s in the catalogue: %w", id, err)
	}
	return r, true, nil
}

// Insert adds rows in one transaction, which is on the disk when it returns. A
// row whose id is there already is left as it is: the first one stands, unless
// its copy is damaged and the new one has the same digest.
func (c *Catalog) Insert(ctx context.Context, rows []Row) error {
	if len(rows) == 0 {
		return nil
	}
	err := tx(ctx, c.write, func(tx *sql.Tx) error {
		ins, sums := tx.StmtContext(ctx, c.insert), make(sums, 4)
		for i := range rows {
			r := &rows[i]
			res, err := ins.ExecContext(ctx, values(r)...)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil {
				return err
			} else if n > 0 {
				sums.add(r, 1)
				continue
			}
			old, err := scan(tx.QueryRowContext(ctx, `SELECT `+columns+` FROM episodes WHERE id = ?`, r.Facts.ID[:]))
			if err != nil {
				return err
			}
			if old.Damaged == "" || old.Facts.Digest != r.Facts.Digest {
				continue
			}
			if err := remove(ctx, tx, &old, sums); err != nil {
				return err
			}
			if _, err := ins.ExecContext(ctx, values(r)...); err != nil {
				return err
			}
			sums.add(r, 1)
		}
		return c.add(ctx, tx, sums)
	})
	if err != nil {
		return fmt.Errorf("insert %d episodes into the catalogue: %w", len(rows), err)
	}
	return nil
}

// remove takes a row out that is to be inserted anew.
func remove(ctx context.Context, tx *sql.Tx, old *Row, sums sums) error {
	sums.add(old, -1)
	_, err := tx.ExecContext(ctx, `DELETE FROM episodes WHERE id = ?`, old.Facts.ID[:])
	return err
}

// Replace makes the rows what the catalogue says of their episodes, whatever
// it said before, and tells how many were new and how many differed. A row
// without CheckedAt keeps the one that is there.
func (c *Catalog) Replace(ctx context.Context, rows []Row) (added, changed int, err error) {
	err = tx(ctx, c.write, func(tx *sql.Tx) error {
		added, changed = 0, 0
		ins, sums := tx.StmtContext(ctx, c.insert), make(sums, 4)
		for i := range rows {
			r := &rows[i]
			old, err := scan(tx.QueryRowContext(ctx, `SELECT `+columns+` FROM episodes WHERE id = ?`, r.Facts.ID[:]))
			if err == nil && r.CheckedAt.IsZero() {
				r.CheckedAt = old.CheckedAt
			}
			switch {
			case errors.Is(err, sql.ErrNoRows):
				added++
			case err != nil:
				return err
			case old == canonical(*r):
				continue
			default:
				changed++
				if err := remove(ctx, tx, &old, sums); err != nil {
					return err
				}
			}
			if _, err := ins.ExecContext(ctx, values(r)...); err != nil {
				return err
			}
			sums.add(r, 1)
		}
		return c.add(ctx, tx, sums)
	})
	if err != nil {
		return 0, 0, fmt.Errorf("bring %d episodes of the catalogue up to date: %w", len(rows), err)
	}
	return added, changed, nil
}

// Remove takes the row of one episode out.
func (c *Catalog) Remove(ctx context.Context, id episode.ID) error {
	err := tx(ctx, c.write, func(tx *sql.Tx) error {
		old, err := scan(tx.QueryRowContext(ctx, `DELETE FROM episodes WHERE id = ? RETURNING `+columns, id[:]))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		sums := make(sums, 1)
		sums.add(&old, -1)
		return c.add(ctx, tx, sums)
	})
	if err != nil {
		return fmt.Errorf("remove episode %s from the catalogue: %w", id, err)
	}
	return nil
}

// sums gathers what a transaction changes for each host.
type sums map[string]*Host

func (s sums) add(r *Row, sign int64) {
	h := s[r.Facts.Host]
	if h == nil {
		h = &Host{Name: r.Facts.Host}
		s[r.Facts.Host] = h
	}
	h.Episodes += sign
	h.Bytes += sign * r.Receipt.ArchiveSize
	if r.Receipt.StoredAt.After(h.LastStored) {
		h.LastStored = r.Receipt.StoredAt
	}
}

func (c *Catalog) add(ctx context.Context, tx *sql.Tx, s sums) error {
	st := tx.StmtContext(ctx, c.count)
	for _, h := range s {
		if _, err := st.ExecContext(ctx, h.Name, h.Episodes, h.Bytes, h.LastStored.UnixMicro()); err != nil {
			return err
		}
	}
	return nil
}

// Hosts sums up every host that has stored something, by name.
func (c *Catalog) Hosts(ctx context.Context) ([]Host, error) {
	rows, err := c.read.QueryContext(ctx, `SELECT name, episodes, bytes, last_stored FROM hosts WHERE episodes > 0 ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("list the hosts of the catalogue: %w", err)
	}
	defer rows.Close()
	var out []Host
	for rows.Next() {
		var h Host
		var last int64
		if err := rows.Scan(&h.Name, &h.Episodes, &h.Bytes, &last); err != nil {
			return nil, fmt.Errorf("list the hosts of the catalogue: %w", err)
		}
		h.LastStored = time.UnixMicro(last).UTC()
		out = append(out, h)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list the hosts of the catalogue: %w", err)
	}
	return out, nil
}

// Filter selects episodes. Zero members select all.
type Filter struct {
	Host     string
	From, To time.Time // started at or after From, and before To
	Outcome  string
	Workload string
	Limit    int // at most so many; 0: all
}

// List yields the selected episodes, the one that started last first. It reads
// in small portions, so a slow caller holds nothing up, and what is stored
// meanwhile may or may not be seen.
func (c *Catalog) List(ctx context.Context, f Filter) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		left, last := f.Limit, (*Row)(nil)
		for {
			n := portion
			if f.Limit > 0 {
				n = min(n, left)
			}
			rows, err := c.portion(ctx, f, last, n)
			for i := range rows {
				if !yield(rows[i], nil) {
					return
				}
			}
			if err != nil {
				yield(Row{}, fmt.Errorf("list episodes of the catalogue: %w", err))
				return
			}
			if left -= len(rows); len(rows) < n || f.Limit > 0 && left <= 0 {
				return
			}
			last = &rows[len(rows)-1]
		}
	}
}

const portion = 500 // rows

func (c *Catalog) portion(ctx context.Context, f Filter, after *Row, n int) ([]Row, error) {
	var where []string
	var args []any
	and := func(cond string, a ...any) {
		where, args = append(where, cond), append(args, a...)
	}
	if f.Host != "" {
		and(`host = ?`, f.Host)
	}
	if !f.From.IsZero() {
		and(`started >= ?`, ceilSecond(f.From))
	}
	if !f.To.IsZero() {
		and(`started < ?`, ceilSecond(f.To))
	}
	if f.Outcome != "" {
		and(`outcome = ?`, f.Outcome)
	}
	if f.Workload != "" {
		and(`workload = ?`, f.Workload)
	}
	if after != nil {
		and(`(started, id) < (?, ?)`, after.Facts.Started.Unix(), after.Facts.ID[:])
	}
	q := `SELECT ` + columns + ` FROM episodes`
	if len(where) > 0 {
		q += ` WHERE ` + strings.Join(where, ` AND `)
	}
	return c.query(ctx, q+` ORDER BY started DESC, id DESC LIMIT ?`, append(args, n)...)
}

// Each yields every episode by id, in portions as List does. It is for
// comparing the catalogue with the store.
func (c *Catalog) Each(ctx context.Context) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		var last episode.ID
		for {
			page, err := c.query(ctx, `SELECT `+columns+` FROM episodes WHERE id > ? ORDER BY id LIMIT ?`, last[:], portion)
			for i := range page {
				if !yield(page[i], nil) {
					return
				}
				last = page[i].Facts.ID
			}
			if err != nil {
				yield(Row{}, fmt.Errorf("read the catalogue: %w", err))
				return
			}
			if len(page) < portion {
				return
			}
		}
	}
}

// Check has SQLite read the whole catalogue and compare its trees; nil means
// that it is sound. It takes about a second for a million rows.
func (c *Catalog) Check(ctx context.Context) error {
	var s string
	if err := c.read.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&s); err != nil {
		return fmt.Errorf("check the catalogue: %w", err)
	}
	if s != "ok" {
		return fmt.Errorf("%w: %s", errCorrupt, s)
	}
	return nil
}

// Files names the files that a catalogue at path consists of, the main one
// last: a catalogue that is moved aside must not leave its log to the next.
func Files(path string) []string { return []string{path + "-wal", path + "-shm", path} }

// Exists says whether there is a catalogue at path, of whatever state.
func Exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func tx(ctx context.Context, db *sql.DB, do func(*sql.Tx) error) error {
	t, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(t); err != nil {
		_ = t.Rollback() // the first error is the one that matters
		return err
	}
	return t.Commit()
}

func values(r *Row) []any {
	return []any{r.Facts.ID[:], r.Facts.Host, r.Facts.Digest[:], r.Facts.Started.Unix(), r.Facts.Ended.Unix(), r.Facts.Size, r.Facts.Files,
		r.Receipt.ArchiveSize, r.Receipt.StoredAt.UnixMicro(), r.Receipt.ReceiverVersion, r.Receipt.WindowID, r.Outcome, r.Workload,
		r.Damaged, r.checkedAt().UnixMicro()}
}

func scan(s interface{ Scan(...any) error }) (Row, error) {
	var r Row
	var id, digest []byte
	var started, ended, stored, checked int64
	if err := s.Scan(&id, &r.Facts.Host, &digest, &started, &ended, &r.Facts.Size, &r.Facts.Files,
		&r.Receipt.ArchiveSize, &stored, &r.Receipt.ReceiverVersion, &r.Receipt.WindowID, &r.Outcome, &r.Workload, &r.Damaged, &checked); err != nil {
		return Row{}, err
	}
	if len(id) != len(episode.ID{}) || len(digest) != len(bag.Digest{}) {
		return Row{}, fmt.Errorf("%w: an id of %d and a digest of %d bytes", errCorrupt, len(id), len(digest))
	}
	copy(r.Facts.ID[:], id)
	copy(r.Facts.Digest[:], digest)
	r.Facts.Started, r.Facts.Ended = time.Unix(started, 0).UTC(), time.Unix(ended, 0).UTC()
	r.Receipt.Episode, r.Receipt.Host, r.Receipt.BagDigest = r.Facts.ID, r.Facts.Host, r.Facts.Digest
	r.Receipt.StoredAt, r.CheckedAt = time.UnixMicro(stored).UTC(), time.UnixMicro(checked).UTC()
	return r, nil
}

func (r *Row) checkedAt() time.Time {
	if r.CheckedAt.IsZero() {
		return r.Receipt.StoredAt
	}
	return r.CheckedAt
}

// canonical is r as it comes back from the catalogue.
func canonical(r Row) Row {
	r.Facts.Started, r.Facts.Ended = time.Unix(r.Facts.Started.Unix(), 0).UTC(), time.Unix(r.Facts.Ended.Unix(), 0).UTC()
	r.Receipt.Episode, r.Receipt.Host, r.Receipt.BagDigest = r.Facts.ID, r.Facts.Host, r.Facts.Digest
	r.CheckedAt = time.UnixMicro(r.checkedAt().UnixMicro()).UTC()
	r.Receipt.StoredAt = time.UnixMicro(r.Receipt.StoredAt.UnixMicro()).UTC()
	return r
}

// ceilSecond is the first whole second that is not before t: starts are kept
// as whole seconds.
func ceilSecond(t time.Time) int64 {
	s := t.Unix()
	if t.Nanosecond() > 0 {
		s++
	}
	return s
}
