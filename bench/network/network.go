package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/keelson-io/keelson/bench"
)

const (
	stream      = 's'
	echo        = 'e'
	messageSize = 64
	blockSize   = 128 << 10
)

// Serve answers the connections that l takes until ctx ends.
func Serve(ctx context.Context, l net.Listener) error {
	var open sync.WaitGroup
	defer open.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("network: %w", err)
		}
		open.Go(func() {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			_ = answer(c) // the other side sees that the connection ends
		})
	}
}

func answer(c net.Conn) error {
	buf := make([]byte, blockSize)
	if _, err := io.ReadFull(c, buf[:1]); err != nil {
		return err
	}
	switch buf[0] {
	case stream:
		n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{c}, buf)
		if err != nil {
			return err
		}
		_, err = c.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
		return err
	case echo:
		for {
			if _, err := io.ReadFull(c, buf[:messageSize]); err != nil {
				return err
			}
			if _, err := c.Write(buf[:messageSize]); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("network: connection for %q", buf[0])
}

// dial opens a connection for something.
func dial(ctx context.Context, address string, what byte) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	if _, err := c.Write([]byte{what}); err != nil {
		return nil, errors.Join(fmt.Errorf("network: %w", err), c.Close())
	}
	return c, nil
}

// Throughput is what a stream measured.
type Throughput struct {
	Streams        int     `json:"streams"`
	Bytes          int64   `json:"bytes"` // that arrived
	Seconds        float64 `json:"seconds"`
	BytesPerSecond float64 `json:"bytes_per_second"`
}

// Stream sends to a server for a time, on several connections, and counts what arrives there.
func Stream(ctx context.Context, address string, streams int, d time.Duration) (*Throughput, error) {
	if streams < 1 || d <= 0 {
		return nil, errors.New("network: streams and duration must be more than 0")
	}
	begun := time.Now()
	counts, errs := make([]int64, streams), make([]error, streams)
	var senders sync.WaitGroup
	for i := range streams {
		senders.Go(func() { counts[i], errs[i] = send(ctx, address, begun.Add(d)) })
	}
	senders.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	t := &Throughput{Streams: streams, Seconds: time.Since(begun).Seconds()}
	for _, n := range counts {
		t.Bytes += n
	}
	t.BytesPerSecond = float64(t.Bytes) / t.Seconds
	return t, nil
}

// send sends until a time, and returns how much the server says has come.
func send(ctx context.Context, address string, until time.Time) (int64, error) {
	c, err := dial(ctx, address, stream)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	for block := make([]byte, blockSize); time.Now().Before(until); {
		if _, err := c.Write(block); err != nil {
			return 0, fmt.Errorf("network: %w", err)
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, fmt.Errorf("network: %w", err)
	}
	var count [8]byte
	if _, err := io.ReadFull(c, count[:]); err != nil {
		return 0, fmt.Errorf("network: the server has not said what came: %w", err)
	}
	return int64(binary.BigEndian.Uint64(count[:])), nil
}

// Echo measures how long small messages take to a server and back. Each client has a connection.
func Echo(ctx context.Context, address string, o bench.Options) (*bench.Result, error) {
	conns := make([]net.Conn, max(0, o.Clients))
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	for i := range conns {
		c, err := dial(ctx, address, echo)
		if err != nil {
			return nil, err
		}
		conns[i] = c
	}
	buffers := make([][messageSize]byte, len(conns))
	return bench.Measure(ctx, "echo", o, func(_ context.Context, w *bench.Worker) error {
		c, b := conns[w.ID], buffers[w.ID][:]
		if _, err := c.Write(b); err != nil {
			return err
		}
		_, err := io.ReadFull(c, b)
		return err
	})
}

// Connections measures how long it takes to open a connection, to send a message, and to have its answer.
func Connections(ctx context.Context, address string, o bench.Options) (*bench.Result, error) {
	return bench.Measure(ctx, "connections", o, func(ctx context.Context, _ *bench.Worker) (err error) {
		c, err := dial(ctx, address, echo)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		var b [messageSize]byte
		if _, err := c.Write(b[:]); err != nil {
			return err
		}
		_, err = io.ReadFull(c, b[:])
		return err
	})
}
