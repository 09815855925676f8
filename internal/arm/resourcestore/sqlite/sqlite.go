// Package sqlite is the resource store of one machine: an SQLite database in WAL mode, written by one
// connection with synchronous=FULL, so that what Apply returned for survives the loss of power
// (https://www.sqlite.org/pragma.html#pragma_synchronous).
package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// schema is the version of the tables below, kept in PRAGMA user_version.
const schema = 1

const tables = `
CREATE TABLE resources (
	key      TEXT PRIMARY KEY,
	id       TEXT NOT NULL,
	type     TEXT NOT NULL,
	body     BLOB NOT NULL,
	revision INTEGER NOT NULL,
	deleting INTEGER NOT NULL,
	created  INTEGER NOT NULL,
	changed  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX resources_by_type ON resources (type, key);
CREATE TABLE operations (
	number      INTEGER PRIMARY KEY,
	id          TEXT NOT NULL UNIQUE,
	key         TEXT NOT NULL,
	resource    TEXT NOT NULL,
	kind        TEXT NOT NULL,
	location    TEXT NOT NULL,
	api_version TEXT NOT NULL,
	status      TEXT NOT NULL,
	error       BLOB,
	result      BLOB,
	steps       BLOB,
	start       INTEGER NOT NULL,
	end         INTEGER NOT NULL
);
CREATE INDEX operations_by_resource ON operations (key, status);
CREATE INDEX operations_in_progress ON operations (start) WHERE status = 'InProgress';
PRAGMA user_version = 1;
`

// keep is how long an operation that ended can be asked for.
const keep = 7 * 24 * time.Hour

// Store implements resourcestore.Store.
type Store struct {
	writer *sql.DB // one connection
	reader *sql.DB

	notify   sync.Mutex // held from commit to notification: watchers see commits in order
	watchMu  sync.Mutex
	watchers map[int]func([]resourcestore.Event)
	next     int
}

// Open opens the database file, which it makes when there is none, readable by its owner only.
func Open(ctx context.Context, path string) (*Store, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the document store: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the document store: %w", err)
	}
	source := func(more ...string) string {
		q := url.Values{"_pragma": append([]string{"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)"}, more...)}
		return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
	}
	s := &Store{watchers: map[int]func([]resourcestore.Event){}}
	if s.writer, err = sql.Open("sqlite", source()); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s.writer.SetMaxOpenConns(1)
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), s.writer.Close())
	}
	if s.reader, err = sql.Open("sqlite", source("query_only(1)")); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), s.writer.Close())
	}
	s.reader.SetMaxOpenConns(4)
	s.reader.SetMaxIdleConns(4)
	return s, nil
}

func (s *Store) migrate(ctx context.Context) error {
	var version int
	if err := s.writer.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	switch version {
	case 0:
		if err := s.transact(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, tables)
			return err
		}); err != nil {
			return fmt.Errorf("make the tables: %w", err)
		}
	case schema:
	default:
		return fmt.Errorf("the database has schema %d, this program knows %d: it was written by another version", version, schema)
	}
	_, err := s.writer.ExecContext(ctx, "DELETE FROM operations WHERE status <> ? AND end < ?", resourcestore.InProgress, time.Now().Add(-keep).UnixNano())
	if err != nil {
		return fmt.Errorf("drop old operations: %w", err)
	}
	return nil
}

func (s *Store) transact(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	if err := fn(tx); err != nil {
		// The rollback's own error says nothing that the first does not.
		_ = tx.Rollback()
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

type scanner interface{ Scan(...any) error }

const resourceColumns = "id, body, revision, deleting, created, changed"

func scanResource(row scanner) (resourcestore.Resource, error) {
	var r resourcestore.Resource
	var id string
	var body []byte
	var created, changed int64
	if err := row.Scan(&id, &body, &r.Revision, &r.Deleting, &created, &changed); err != nil {
		return r, err
	}
	var err error
	if r.ID, err = resourceid.Parse(id); err != nil {
		return r, fmt.Errorf("the store holds a document with a bad ID: %w", err)
	}
	r.Body, r.Created, r.Changed = body, time.Unix(0, created).UTC(), time.Unix(0, changed).UTC()
	return r, nil
}

// Get implements resourcestore.Store.
func (s *Store) Get(ctx context.Context, id resourceid.ID) (resourcestore.Resource, error) {
	r, err := scanResource(s.reader.QueryRowContext(ctx, "SELECT "+resourceColumns+" FROM resources WHERE key = ?", id.Key()))
	if errors.Is(err, sql.ErrNoRows) {
		return r, fmt.Errorf("%s: %w", id, resourcestore.ErrNotFound)
	}
	if err != nil {
		return r, fmt.Errorf("read %s: %w", id, err)
	}
	return r, nil
}

// List implements resourcestore.Store.
func (s *Store) List(ctx context.Context, f resourcestore.Filter) ([]resourcestore.Resource, error) {
	query, args := "SELECT "+resourceColumns+" FROM resources WHERE 1", []any{}
	if !f.Under.IsZero() {
		// '0' is the character after '/'.
		query += " AND key > ? AND key < ?"
		args = append(args, f.Under.Key()+"/", f.Under.Key()+"0")
	}
	if f.Type != "" {
		query += " AND type = ?"
		args = append(args, strings.ToLower(f.Type))
	}
	rows, err := s.reader.QueryContext(ctx, query+" ORDER BY key", args...)
	if err != nil {
		return nil, fmt.Errorf("list resources: %w", err)
	}
	defer rows.Close()
	var out []resourcestore.Resource
	for rows.Next() {
		r, err := scanResource(rows)
		if err != nil {
			return nil, fmt.Errorf("list resources: %w", err)
		}
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list resources: %w", err)
	}
	return out, nil
}

// Apply implements resourcestore.Store.
func (s *Store) Apply(ctx context.Context, changes ...resourcestore.Change) error {
	s.notify.Lock()
	defer s.notify.Unlock()
	// A client that hangs up must not leave in doubt whether its request was written and announced.
	ctx = context.WithoutCancel(ctx)
	var events []resourcestore.Event
	err := s.transact(ctx, func(tx *sql.Tx) error {
		for _, c := range changes {
			if err := check(ctx, tx, c); err != nil {
				return err
			}
		}
		now := time.Now().UTC().UnixNano()
		for _, c := range changes {
			e, err := apply(ctx, tx, c, now)
			if err != nil {
				return err
			}
			events = append(events, e...)
		}
		return nil
	})
	if err != nil {
		if errors.Is(err, resourcestore.ErrConflict) {
			return err
		}
		return fmt.Errorf("write documents: %w", err)
	}
	s.announce(events)
	return nil
}

func (s *Store) announce(events []resourcestore.Event) {
	if len(events) == 0 {
		return
	}
	s.watchMu.Lock()
	var fns []func([]resourcestore.Event)
	for _, n := range slices.Sorted(maps.Keys(s.watchers)) {
		fns = append(fns, s.watchers[n])
	}
	s.watchMu.Unlock()
	for _, fn := range fns {
		fn(slices.Clone(events))
	}
}

// check holds a change's precondition.
func check(ctx context.Context, tx *sql.Tx, c resourcestore.Change) error {
	id, has := c.Target()
	if !has || c.Revision == resourcestore.Any {
		return nil
	}
	var found int64
	err := tx.QueryRowContext(ctx, "SELECT revision FROM resources WHERE key = ?", id.Key()).Scan(&found)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if found != c.Revision {
		return fmt.Errorf("%s has revision %d, expected %d: %w", id, found, c.Revision, resourcestore.ErrConflict)
	}
	return nil
}

func apply(ctx context.Context, tx *sql.Tx, c resourcestore.Change, now int64) ([]resourcestore.Event, error) {
	switch {
	case c.Put != nil:
		_, err := tx.ExecContext(ctx, `
			INSERT INTO resources (key, id, type, body, revision, deleting, created, changed) VALUES (?, ?, ?, ?, 1, ?, ?, ?)
			ON CONFLICT (key) DO UPDATE SET id = excluded.id, body = excluded.body, revision = revision + 1,
				deleting = excluded.deleting, changed = excluded.changed`,
			c.Put.ID.Key(), c.Put.ID.String(), strings.ToLower(c.Put.ID.Type()), []byte(c.Put.Body), c.Put.Deleting, now, now)
		return []resourcestore.Event{{ID: c.Put.ID}}, err
	case c.Delete != nil:
		res, err := tx.ExecContext(ctx, "DELETE FROM resources WHERE key = ?", c.Delete.Key())
		if err != nil {
			return nil, err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return nil, err
		}
		return []resourcestore.Event{{ID: *c.Delete, Deleted: true}}, nil
	case c.Operation != nil:
		return []resourcestore.Event{{ID: c.Operation.Resource, Operation: c.Operation.ID}}, putOperation(ctx, tx, *c.Operation)
	}
	return nil, nil
}

func putOperation(ctx context.Context, tx *sql.Tx, o resourcestore.Operation) error {
	have, err := scanOperation(tx.QueryRowContext(ctx, "SELECT "+operationColumns+" FROM operations WHERE id = ?", o.ID))
	if err == nil {
		o = have.Replaced(o)
	} else if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	steps, err := json.Marshal(o.Steps)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO operations (id, key, resource, kind, location, api_version, status, error, result, steps, start, end)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET key = excluded.key, resource = excluded.resource, kind = excluded.kind, location = excluded.location,
			api_version = excluded.api_version, status = excluded.status, error = excluded.error, result = excluded.result,
			steps = excluded.steps, start = excluded.start, end = excluded.end`,
		o.ID, o.Resource.Key(), o.Resource.String(), o.Kind, o.Location, o.APIVersion, o.Status, []byte(o.Error), []byte(o.Result), steps,
		instant(o.Start), instant(o.End))
	return err
}

// instant is a time as a number; the zero time is 0.
func instant(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func timeOf(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

const operationColumns = "id, resource, kind, location, api_version, status, error, result, steps, start, end"

func scanOperation(row scanner) (resourcestore.Operation, error) {
	var o resourcestore.Operation
	var resource string
	var fault, result, steps []byte
	var start, end int64
	if err := row.Scan(&o.ID, &resource, &o.Kind, &o.Location, &o.APIVersion, &o.Status, &fault, &result, &steps, &start, &end); err != nil {
		return o, err
	}
	var err error
	if o.Resource, err = resourceid.Parse(resource); err != nil {
		return o, fmt.Errorf("the store holds an operation with a bad ID: %w", err)
	}
	if len(fault) > 0 {
		o.Error = fault
	}
	if len(result) > 0 {
		o.Result = result
	}
	if len(steps) > 0 {
		if err := json.Unmarshal(steps, &o.Steps); err != nil {
			return o, fmt.Errorf("read the steps of operation %s: %w", o.ID, err)
		}
	}
	o.Start, o.End = timeOf(start), timeOf(end)
	return o, nil
}

// Operation implements resourcestore.Store.
func (s *Store) Operation(ctx context.Context, id string) (resourcestore.Operation, error) {
	o, err := scanOperation(s.reader.QueryRowContext(ctx, "SELECT "+operationColumns+" FROM operations WHERE id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		return o, fmt.Errorf("operation %s: %w", id, resourcestore.ErrNotFound)
	}
	if err != nil {
		return o, fmt.Errorf("read operation %s: %w", id, err)
	}
	return o, nil
}

// Operations implements resourcestore.Store.
func (s *Store) Operations(ctx context.Context, resource resourceid.ID, inProgress bool) ([]resourcestore.Operation, error) {
	query, args := "SELECT "+operationColumns+" FROM operations WHERE 1", []any{}
	if !resource.IsZero() {
		query += " AND key = ?"
		args = append(args, resource.Key())
	}
	if inProgress {
		query += " AND status = 'InProgress'"
	}
	rows, err := s.reader.QueryContext(ctx, query+" ORDER BY start, number", args...)
	if err != nil {
		return nil, fmt.Errorf("list operations: %w", err)
	}
	defer rows.Close()
	var out []resourcestore.Operation
	for rows.Next() {
		o, err := scanOperation(rows)
		if err != nil {
			return nil, fmt.Errorf("list operations: %w", err)
		}
		out = append(out, o)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list operations: %w", err)
	}
	return out, nil
}

// Watch implements resourcestore.Store.
func (s *Store) Watch(fn func([]resourcestore.Event)) (cancel func()) {
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	n := s.next
	s.next++
	s.watchers[n] = fn
	return func() {
		s.watchMu.Lock()
		defer s.watchMu.Unlock()
		delete(s.watchers, n)
	}
}

// Close implements resourcestore.Store.
func (s *Store) Close() error {
	return errors.Join(s.reader.Close(), s.writer.Close())
}
