package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"cis490/src/episode"
)

// Check is what looking at a stored copy found.
type Check struct {
	ID      episode.ID
	At      time.Time
	Damaged string // see [Row.Damaged]
	Lift    bool   // of a damaged one that was found sound; else it stays damaged
}

// SetChecked enters checks in one transaction, which is on the disk when it
// returns. An episode that is not in the catalogue is passed over.
func (c *Catalog) SetChecked(ctx context.Context, checks []Check) error {
	if len(checks) == 0 {
		return nil
	}
	err := tx(ctx, c.write, func(tx *sql.Tx) error {
		for _, k := range checks {
			if _, err := tx.ExecContext(ctx, `UPDATE episodes SET damaged = ?, checked_at = ? WHERE id = ? AND (? OR damaged = '')`,
				k.Damaged, k.At.UnixMicro(), k.ID[:], k.Lift || k.Damaged != ""); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("enter the checks of %d episodes into the catalogue: %w", len(checks), err)
	}
	return nil
}

// Unchecked yields the damaged episodes that were last checked before one time,
// and then the sound ones that were before another; of each, the one whose check
// is longest ago comes first. host selects those of one host, "" all. It reads in
// portions, as List does.
func (c *Catalog) Unchecked(ctx context.Context, damaged, sound time.Time, host string) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		// The damaged ones by themselves: they are few and stand in an index of their own.
		for _, part := range []struct {
			where string
			args  []any
		}{
			{`damaged <> '' AND checked_at < ?`, []any{damaged.UnixMicro()}},
			{`damaged = '' AND checked_at < ?`, []any{sound.UnixMicro()}},
		} {
			where, args := part.where, part.args
			if host != "" {
				where, args = where+` AND host = ?`, append(args, host)
			}
			var at int64
			var last episode.ID
			for first := true; ; first = false {
				q, a := `SELECT `+columns+` FROM episodes WHERE `+where, args
				if !first {
					q, a = q+` AND (checked_at, id) > (?, ?)`, append(args[:len(args):len(args)], at, last[:])
				}
				rows, err := c.query(ctx, q+` ORDER BY checked_at, id LIMIT ?`, append(a[:len(a):len(a)], portion)...)
				for i := range rows {
					if !yield(rows[i], nil) {
						return
					}
				}
				if err != nil {
					yield(Row{}, fmt.Errorf("list the episodes to be checked: %w", err))
					return
				}
				if len(rows) < portion {
					break
				}
				at, last = rows[len(rows)-1].CheckedAt.UnixMicro(), rows[len(rows)-1].Facts.ID
			}
		}
	}
}

// CountUnchecked counts what Unchecked yields, and the bytes of its archives.
func (c *Catalog) CountUnchecked(ctx context.Context, damaged, sound time.Time, host string) (episodes, bytes int64, err error) {
	q, args := `SELECT count(*), coalesce(sum(archive_size), 0) FROM episodes WHERE checked_at < iif(damaged <> '', ?, ?)`, []any{damaged.UnixMicro(), sound.UnixMicro()}
	if host != "" {
		q, args = q+` AND host = ?`, append(args, host)
	}
	if err := c.read.QueryRowContext(ctx, q, args...).Scan(&episodes, &bytes); err != nil {
		return 0, 0, fmt.Errorf("count the episodes to be checked: %w", err)
	}
	return episodes, bytes, nil
}

// Walked is when the store's directories were last compared with the catalogue,
// the zero time if never.
func (c *Catalog) Walked(ctx context.Context) (at time.Time, err error) {
	var v int64
	err = c.read.QueryRowContext(ctx, `SELECT value FROM state WHERE name = 'walked_at'`).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return at, nil
	}
	if err != nil {
		return at, fmt.Errorf("read the catalogue's state: %w", err)
	}
	return time.UnixMicro(v).UTC(), nil
}

// SetWalked records that.
func (c *Catalog) SetWalked(ctx context.Context, at time.Time) error {
	_, err := c.write.ExecContext(ctx, `INSERT INTO state (name, value) VALUES ('walked_at', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, at.UnixMicro())
	if err != nil {
		return fmt.Errorf("write the catalogue's state: %w", err)
	}
	return nil
}

// OldestCheck is when the check that is longest ago was; found is false when
// there are no episodes.
func (c *Catalog) OldestCheck(ctx context.Context) (at time.Time, found bool, err error) {
	var v sql.NullInt64
	if err := c.read.QueryRowContext(ctx, `SELECT min(checked_at) FROM episodes`).Scan(&v); err != nil {
		return at, false, fmt.Errorf("look for the oldest check in the catalogue: %w", err)
	}
	if !v.Valid {
		return at, false, nil
	}
	return time.UnixMicro(v.Int64).UTC(), true, nil
}

// Damaged counts the damaged episodes of a host, or of all when host is "", and
// lists the first of them by id, at most limit.
func (c *Catalog) Damaged(ctx context.Context, host string, limit int) (count int64, rows []Row, err error) {
	where, args := `damaged <> ''`, []any(nil)
	if host != "" {
		where, args = where+` AND host = ?`, append(args, host)
	}
	if err := c.read.QueryRowContext(ctx, `SELECT count(*) FROM episodes WHERE `+where, args...).Scan(&count); err != nil {
		return 0, nil, fmt.Errorf("count the damaged episodes: %w", err)
	}
	if count == 0 || limit == 0 {
		return count, nil, nil
	}
	if rows, err = c.query(ctx, `SELECT `+columns+` FROM episodes WHERE `+where+` ORDER BY id LIMIT ?`, append(args, limit)...); err != nil {
		return 0, nil, fmt.Errorf("list the damaged episodes: %w", err)
	}
	return count, rows, nil
}

func (c *Catalog) query(ctx context.Context, q string, args ...any) ([]Row, error) {
	rows, err := c.read.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Row
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return out, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// LookupAll finds those of ids that are episodes of a host, in one query. There
// may be up to some ten thousand of them.
func (c *Catalog) LookupAll(ctx context.Context, host string, ids []episode.ID) ([]Row, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	args := make([]any, 0, len(ids)+1)
	for i := range ids {
		args = append(args, ids[i][:])
	}
	marks := strings.Repeat(",?", len(ids))[1:]
	rows, err := c.query(ctx, `SELECT `+columns+` FROM episodes WHERE id IN (`+marks+`) AND host = ?`, append(args, host)...)
	if err != nil {
		return nil, fmt.Errorf("look up %d episodes in the catalogue: %w", len(ids), err)
	}
	return rows, nil
}
