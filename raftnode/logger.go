package raftnode

import "go.uber.org/zap"

// raftLogger gives raft's own log lines to zap. raft panics through it only when its invariants are broken.
type raftLogger struct{ *zap.SugaredLogger }

func newRaftLogger(lg *zap.Logger) raftLogger {
	return raftLogger{lg.Named("raft").WithOptions(zap.AddCallerSkip(1)).Sugar()}
}

// acknowledged is what raft says when it is told of a write a second time. That is usual with asynchronous storage: every
// Ready that comes while a write is under way asks for an answer about the same last entry.
const acknowledged = "entry at index %d missing from unstable log; ignoring"

// Infof implements raft.Logger.
func (l raftLogger) Infof(format string, v ...any) {
	if format == acknowledged {
		l.Debugf(format, v...)
		return
	}
	l.SugaredLogger.Infof(format, v...)
}

// Warning implements raft.Logger.
func (l raftLogger) Warning(v ...any) { l.Warn(v...) }

// Warningf implements raft.Logger.
func (l raftLogger) Warningf(format string, v ...any) { l.Warnf(format, v...) }

// Fatal implements raft.Logger; the process is not ended from here.
func (l raftLogger) Fatal(v ...any) { l.Panic(v...) }

// Fatalf implements raft.Logger.
func (l raftLogger) Fatalf(format string, v ...any) { l.Panicf(format, v...) }
