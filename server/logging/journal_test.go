package logging

import (
	"bytes"
	"errors"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/keelson-io/keelson/server/config"
)

type sent struct {
	line string
	p    journal.Priority
	vars map[string]string
}

func TestJournal(t *testing.T) {
	var all []sent
	var down bool
	var rest bytes.Buffer
	take := func(line string, p journal.Priority, vars map[string]string) error {
		if down {
			return errors.New("no journal")
		}
		all = append(all, sent{line, p, vars})
		return nil
	}
	lg := zap.New(&journald{zapcore.InfoLevel, encoder("json"), take, zapcore.AddSync(&rest)}, zap.AddCaller()).With(zap.Int("n", 1))
	lg.Debug("not this")
	lg.Info("info", zap.String("k", "v"))
	lg.Warn("warn")
	lg.Error("error")
	lg.DPanic("bad")
	down = true
	lg.Warn("elsewhere")
	require.Len(t, all, 4)
	for i, p := range []journal.Priority{journal.PriInfo, journal.PriWarning, journal.PriErr, journal.PriCrit} {
		require.Equal(t, p, all[i].p)
		require.Equal(t, "logging", all[i].vars["PACKAGE"])
		require.NotEmpty(t, all[i].vars["SYSLOG_IDENTIFIER"])
		require.Contains(t, all[i].line, `"n":1`)
		require.NotContains(t, all[i].line, "\n")
	}
	require.Contains(t, all[0].line, `"msg":"info","n":1,"k":"v"}`)
	require.Contains(t, rest.String(), `"elsewhere","n":1}`+"\n")
	require.NotContains(t, rest.String(), `"msg":"warn"`)
}

func TestNoJournal(t *testing.T) {
	if journal.Enabled() {
		t.Skip("there is a journal")
	}
	_, _, err := New(config.Log{Level: "info", Format: "json", Outputs: []string{"systemd/journal"}})
	require.ErrorContains(t, err, "can't find journal")
}
