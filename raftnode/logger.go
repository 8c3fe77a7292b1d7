package raftnode

import "go.uber.org/zap"

// raftLogger gives raft's own log lines to zap. raft panics through it only when its invariants are broken.
type raftLogger struct{ *zap.SugaredLogger }

func newRaftLogger(lg *zap.Logger) raftLogger {
	return raftLogger{lg.Named("raft").WithOptions(zap.AddCallerSkip(1)).Sugar()}
}

// Warning implements raft.Logger.
func (l raftLogger) Warning(v ...any) { l.Warn(v...) }

// Warningf implements raft.Logger.
func (l raftLogger) Warningf(format string, v ...any) { l.Warnf(format, v...) }

// Fatal implements raft.Logger; the process is not ended from here.
func (l raftLogger) Fatal(v ...any) { l.Panic(v...) }

// Fatalf implements raft.Logger.
func (l raftLogger) Fatalf(format string, v ...any) { l.Panicf(format, v...) }
