package logging

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap/zapcore"
)

// journalOutput is the value of --log-outputs that stands for systemd's journal.
const journalOutput = "systemd/journal"

// send gives a line to the journal.
type send func(line string, p journal.Priority, vars map[string]string) error

// journald is a zapcore.Core whose lines go to systemd's journal, with priorities; what it does not take goes to fallback.
type journald struct {
	zapcore.LevelEnabler
	enc      zapcore.Encoder
	send     send
	fallback zapcore.WriteSyncer
}

func newJournal(enc zapcore.Encoder, level zapcore.Level) (zapcore.Core, error) {
	if !journal.Enabled() {
		return nil, errors.New("--log-outputs: can't find journal")
	}
	return &journald{level, enc, journal.Send, zapcore.Lock(os.Stderr)}, nil
}

// priority is that of a level.
func priority(l zapcore.Level) journal.Priority {
	switch {
	case l >= zapcore.DPanicLevel:
		return journal.PriCrit
	case l == zapcore.ErrorLevel:
		return journal.PriErr
	case l == zapcore.WarnLevel:
		return journal.PriWarning
	case l == zapcore.InfoLevel:
		return journal.PriInfo
	}
	return journal.PriDebug
}

// With is zapcore.Core.
func (j *journald) With(fields []zapcore.Field) zapcore.Core {
	c := *j
	c.enc = j.enc.Clone()
	for _, f := range fields {
		f.AddTo(c.enc)
	}
	return &c
}

// Check is zapcore.Core.
func (j *journald) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if j.Enabled(e.Level) {
		return ce.AddCore(e, j)
	}
	return ce
}

// Write is zapcore.Core.
func (j *journald) Write(e zapcore.Entry, fields []zapcore.Field) error {
	line, err := j.enc.EncodeEntry(e, fields)
	if err != nil {
		return err
	}
	defer line.Free()
	line.TrimNewline()
	if j.send(line.String(), priority(e.Level), about(e)) != nil {
		line.AppendByte('\n')
		_, err = j.fallback.Write(line.Bytes())
	}
	return err
}

// Sync is zapcore.Core.
func (j *journald) Sync() error { return j.fallback.Sync() }

// about are fields of the journal, as etcd sets them.
func about(e zapcore.Entry) map[string]string {
	vars := map[string]string{"SYSLOG_IDENTIFIER": filepath.Base(os.Args[0])}
	if e.Caller.Defined {
		vars["PACKAGE"] = filepath.Dir(e.Caller.TrimmedPath())
	}
	return vars
}
