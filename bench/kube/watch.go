package kube

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/keelson-io/keelson/bench"
)

// fanObjects is how many objects the updates of a fan-out go round.
const fanObjects = 100

// fanClients make them.
const fanClients = 4

// fanLimit is how long streams may take to get the last events after the last update was answered.
const fanLimit = time.Minute

// fanOut has many streams follow many updates. An operation is an event that a stream got, its latency counts from before the
// update was sent. A stream that ends before it got every update is an error.
func (r *run) fanOut(ctx context.Context) (*Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	objects, updates := min(fanObjects, r.o.Objects), r.o.Updates
	from, err := r.revision(ctx)
	if err != nil {
		return nil, err
	}
	var streams sync.WaitGroup
	var dropped atomic.Int64
	var last atomic.Pointer[error]
	defer streams.Wait()
	defer cancel()
	recorders := make([]*bench.Recorder, r.o.Streams)
	for i := range recorders {
		body, err := r.watch(ctx, i, r.namespace, configMaps, "", "", from)
		if err != nil {
			return nil, err
		}
		rec := bench.NewRecorder()
		recorders[i] = rec
		streams.Go(func() {
			defer body.Close()
			if err := r.follow(body, updates, rec); err != nil {
				dropped.Add(1)
				last.Store(&err)
			}
		})
	}
	var made *bench.Result
	res, err := r.metered(ctx, func() (*bench.Result, error) {
		begun := time.Now()
		var err error
		o := bench.Options{Clients: fanClients, Total: int64(updates), Progress: r.o.Progress}
		made, err = bench.Measure(ctx, "fan-out", o, func(ctx context.Context, w *bench.Worker) error {
			return r.update(ctx, w, int(w.N)%objects)
		})
		if err != nil {
			return nil, err
		}
		if made.Errors > 0 {
			return nil, fmt.Errorf("%d updates failed, the last with: %s", made.Errors, made.LastError)
		}
		limit := time.AfterFunc(fanLimit, cancel)
		streams.Wait()
		limit.Stop()
		return bench.Sum("fan-out", time.Since(begun), recorders...), nil
	})
	if err != nil {
		return nil, err
	}
	res.Clients, res.Errors = r.o.Streams, dropped.Load()
	res.Notes = append(res.Notes, fmt.Sprintf("%d streams, %d updates at %.0f/s: %d events of %d, %d streams dropped",
		r.o.Streams, made.Ops, made.Rate, res.Ops, int64(r.o.Streams)*made.Ops, res.Errors))
	if err := last.Load(); err != nil {
		res.LastError = (*err).Error()
	}
	return res, nil
}

// revision is the resourceVersion of the objects now.
func (r *run) revision(ctx context.Context) (string, error) {
	l, err := r.clients[0].CoreV1().ConfigMaps(r.namespace).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return "", err
	}
	return l.ResourceVersion, nil
}

// next is the continue token of an encoded list.
func (r *run) next(list []byte) string {
	var l metav1.PartialObjectMetadataList
	if r.content == Protobuf {
		var u runtime.Unknown
		if u.Unmarshal(bytes.TrimPrefix(list, []byte("k8s\x00"))) != nil {
			return ""
		}
		list = u.Raw
		// The metadata are the first field.
		if n, w := binary.Uvarint(list[1:]); w > 0 {
			_ = l.ListMeta.Unmarshal(list[1+w : 1+w+int(n)])
		}
		return l.Continue
	}
	// They stand before the items in JSON, too; all of it need not be read.
	_, rest, ok := bytes.Cut(list, []byte(`"continue":"`))
	if items := bytes.Index(list, []byte(`"items":`)); !ok || items >= 0 && len(list)-len(rest) > items {
		return ""
	}
	token, _, _ := bytes.Cut(rest, []byte{'"'})
	return string(token)
}

// watch opens a stream of changes after a revision.
func (t *Target) watch(ctx context.Context, worker int, namespace, resource, labels, fields, after string) (io.ReadCloser, error) {
	req := t.core(worker).Get().Resource(resource).Namespace(namespace).Param("watch", "true").Param("resourceVersion", after).
		Param("timeoutSeconds", "3600")
	if labels != "" {
		req = req.Param("labelSelector", labels)
	}
	if fields != "" {
		req = req.Param("fieldSelector", fields)
	}
	if t.content == Protobuf {
		req = req.SetHeader("Accept", Protobuf+";stream=watch")
	}
	return req.Stream(ctx)
}

var errWatch = errors.New("the watch ended with an error")

// follow reads events until there were so many that were sent by us.
func (r *run) follow(body io.Reader, want int, rec *bench.Recorder) error {
	f := r.frames(body)
	for got := 0; got < want; {
		frame, err := f()
		if err != nil {
			return fmt.Errorf("after %d events: %w", got, err)
		}
		at, ok := sentAt(frame)
		switch {
		case ok:
			rec.Record(time.Since(at))
			got++
		case bytes.Contains(frame, []byte("ERROR")):
			return fmt.Errorf("after %d events: %w: %q", got, errWatch, frame)
		}
	}
	return nil
}

// frames returns what reads one frame after another. A frame is valid until the next one is read.
func (t *Target) frames(body io.Reader) func() ([]byte, error) {
	in := bufio.NewReaderSize(body, 64<<10)
	var buf []byte
	if t.content == Protobuf {
		var size [4]byte
		return func() ([]byte, error) {
			if _, err := io.ReadFull(in, size[:]); err != nil {
				return nil, err
			}
			n := int(binary.BigEndian.Uint32(size[:]))
			if cap(buf) < n {
				buf = make([]byte, n)
			}
			_, err := io.ReadFull(in, buf[:n])
			return buf[:n], err
		}
	}
	return func() ([]byte, error) {
		line, err := in.ReadSlice('\n')
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
		buf = append(buf[:0], line...)
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = in.ReadSlice('\n')
			buf = append(buf, line...)
		}
		return buf, err
	}
}

// sentAt finds when an object was sent, in JSON or protobuf.
func sentAt(frame []byte) (time.Time, bool) {
	i := bytes.LastIndex(frame, []byte("sent")) // managed fields name it too, before
	if i < 0 {
		return time.Time{}, false
	}
	rest := frame[i+len("sent"):]
	for len(rest) > 0 && (rest[0] < '0' || rest[0] > '9') { // in protobuf a tag and a length, which are no digits
		rest = rest[1:]
	}
	n := 0
	for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
		n++
	}
	at, err := strconv.ParseInt(string(rest[:n]), 10, 64)
	return time.Unix(0, at), err == nil
}
