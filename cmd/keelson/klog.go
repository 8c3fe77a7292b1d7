package main

import (
	"bytes"
	"flag"
	"io"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
)

// routeKlog makes the log of client-go and its relatives a part of ours. What they call an error is mostly something that
// they try again.
func routeKlog(lg *zap.Logger) error {
	fs := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(fs)
	for name, value := range map[string]string{"logtostderr": "false", "alsologtostderr": "false", "stderrthreshold": "FATAL", "one_output": "true", "skip_headers": "true"} {
		if err := fs.Set(name, value); err != nil {
			return err
		}
	}
	klog.SetOutput(io.Discard)
	for severity, level := range map[string]zapcore.Level{"INFO": zapcore.DebugLevel, "WARNING": zapcore.InfoLevel, "ERROR": zapcore.InfoLevel, "FATAL": zapcore.ErrorLevel} {
		klog.SetOutputBySeverity(severity, lineLog{lg.Named("client-go"), level})
	}
	return nil
}

// lineLog is a writer of lines into a log.
type lineLog struct {
	lg    *zap.Logger
	level zapcore.Level
}

func (l lineLog) Write(p []byte) (int, error) {
	l.lg.Log(l.level, string(bytes.TrimSpace(p)))
	return len(p), nil
}
