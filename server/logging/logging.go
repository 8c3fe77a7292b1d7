// Package logging builds a member's logger from its configuration.
//
// # Concurrency
//
// The logger may be used from any goroutine.
package logging

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/keelson-io/keelson/server/config"
)

// New makes a logger. close flushes it and closes its files.
func New(c config.Log) (lg *zap.Logger, closeLog func(), err error) {
	level, err := zapcore.ParseLevel(c.Level)
	if err != nil {
		return nil, nil, err
	}
	var sinks []zapcore.WriteSyncer
	var closers []func() error
	var cores []zapcore.Core
	for _, out := range c.Outputs {
		switch out {
		case journalOutput:
			core, err := newJournal(encoder(c.Format), level)
			if err != nil {
				return nil, nil, err
			}
			cores = append(cores, core)
		case "default", "stderr":
			sinks = append(sinks, zapcore.Lock(os.Stderr))
		case "stdout":
			sinks = append(sinks, zapcore.Lock(os.Stdout))
		default:
			sink, closer, err := file(c, out)
			if err != nil {
				return nil, nil, fmt.Errorf("--log-outputs: %w", err)
			}
			sinks, closers = append(sinks, sink), append(closers, closer)
		}
	}
	if len(sinks) > 0 {
		cores = append(cores, zapcore.NewCore(encoder(c.Format), zapcore.NewMultiWriteSyncer(sinks...), level))
	}
	lg = zap.New(zapcore.NewTee(cores...), zap.AddCaller())
	return lg, func() {
		_ = lg.Sync()
		for _, c := range closers {
			_ = c()
		}
	}, nil
}

func encoder(format string) zapcore.Encoder {
	enc := zapcore.EncoderConfig{
		TimeKey: "ts", LevelKey: "level", NameKey: "logger", CallerKey: "caller", MessageKey: "msg", StacktraceKey: "stacktrace",
		LineEnding:     zapcore.DefaultLineEnding,
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeTime:     zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000000Z0700"),
		EncodeDuration: zapcore.StringDurationEncoder,
		EncodeCaller:   zapcore.ShortCallerEncoder,
	}
	if format == "console" {
		return zapcore.NewConsoleEncoder(enc)
	}
	return zapcore.NewJSONEncoder(enc)
}

// Open opens an output for lines that are no log: stderr, or a file, rotated as the log's are.
func Open(c config.Log, path string) (io.WriteCloser, error) {
	if path == "stderr" {
		return output{zapcore.Lock(os.Stderr), func() error { return nil }}, nil
	}
	w, closeFile, err := file(c, path)
	if err != nil {
		return nil, err
	}
	return output{w, closeFile}, nil
}

// output is an io.WriteCloser.
type output struct {
	io.Writer
	close func() error
}

// Close closes a file.
func (o output) Close() error { return o.close() }

func file(c config.Log, path string) (zapcore.WriteSyncer, func() error, error) {
	if c.Rotate {
		l := &lumberjack.Logger{}
		if err := json.Unmarshal([]byte(c.RotateConfig), l); err != nil {
			return nil, nil, fmt.Errorf("--log-rotation-config-json: %w", err)
		}
		l.Filename = path
		return zapcore.AddSync(l), l.Close, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	return zapcore.Lock(f), f.Close, nil
}
