package lease

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestScripts runs testdata/*.txt: commands to one table, whose clock moves by "pass".
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{clock: newHandClock(), rows: newRows()}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out := s.run(t, d)
			if s.table != nil {
				checkInvariants(t, s.table)
			}
			return out
		})
	})
}

type script struct {
	clock *handClock
	rows  *memRows
	table *Table
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	var (
		id        int64
		ttl       int64
		remaining int64
		key       string
		by        string
		term      uint64
	)
	d.MaybeScanArgs(t, "id", &id)
	d.MaybeScanArgs(t, "ttl", &ttl)
	d.MaybeScanArgs(t, "remaining", &remaining)
	d.MaybeScanArgs(t, "key", &key)
	d.MaybeScanArgs(t, "by", &by)
	d.MaybeScanArgs(t, "term", &term)
	if s.table == nil && d.Cmd != "new" {
		d.Fatalf(t, "the first command must be new")
	}
	switch d.Cmd {
	case "new":
		s.table = NewTable(Config{MinTTL: 2, Extend: time.Second, Rows: s.rows, Clock: s.clock})
		return ""
	case "grant":
		got, err := s.table.Grant(ID(id), ttl)
		return result(err, "ttl=%d", got)
	case "revoke":
		keys, err := s.table.Revoke(ID(id))
		return result(err, "keys=%s", strings.Join(keys, ","))
	case "attach":
		return result(s.table.Attach(ID(id), []byte(key)), "ok")
	case "detach":
		s.table.Detach([]byte(key))
		return "ok"
	case "lease-of":
		return fmt.Sprintf("%d", s.table.LeaseOf([]byte(key)))
	case "checkpoint":
		return result(s.table.Checkpoint(ID(id), remaining), "ok")
	case "renew":
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // what would wait returns at once
		got, err := s.table.Renew(ctx, ID(id))
		return result(err, "ttl=%d", got)
	case "ttl":
		i, err := s.table.TimeToLive(ID(id), true)
		return result(err, "granted=%d remaining=%d keys=%s", i.Granted, i.Remaining, strings.Join(i.Keys, ","))
	case "list":
		return fmt.Sprintf("%d", s.table.Leases())
	case "pass":
		step, err := time.ParseDuration(by)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.clock.now = s.clock.now.Add(step)
		return s.due()
	case "due":
		return s.due()
	case "leads":
		s.table.Leadership(term, true)
		return ""
	case "loses":
		s.table.Leadership(term, false)
		return ""
	case "promote":
		return fmt.Sprintf("%v", s.table.Promote(term))
	case "demote":
		s.table.Demote()
		return ""
	case "rows":
		var b strings.Builder
		_ = s.rows.ForEach(func(k, v []byte) error {
			fmt.Fprintf(&b, "%x: %x\n", k, v)
			return nil
		})
		return b.String()
	case "restart":
		s.table = NewTable(Config{MinTTL: 2, Extend: time.Second, Clock: s.clock})
		return result(s.table.Restore(s.rows), "leases=%d", s.table.Len())
	}
	d.Fatalf(t, "unknown command %s", d.Cmd)
	return ""
}

func (s *script) due() string {
	expired, checks, next := due(s.table)
	var b strings.Builder
	if len(expired) > 0 {
		fmt.Fprintf(&b, "expired=%d ", expired)
	}
	if len(checks) > 0 {
		fmt.Fprintf(&b, "checkpoints=%v ", checks)
	}
	if next == never {
		return b.String() + "next=never"
	}
	return fmt.Sprintf("%snext=%v", b.String(), time.Duration(next-s.table.now()))
}

func result(err error, format string, args ...any) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "(waits)"
	case err != nil:
		return "error: " + err.Error()
	}
	return fmt.Sprintf(format, args...)
}
