package apiserver

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/keelson-io/keelson/orchestrator/apiserver/fairness"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// A watch that names no time ends after minWatch to twice that, so that the watches of many clients do not end together.
const minWatch = 30 * time.Minute

// watch streams changes until the client, the server or time ends it.
func (c *call) watch() error {
	var o metav1.ListOptions
	if err := c.options(&o); err != nil {
		return err
	}
	ls, fs, err := c.selectors(&o)
	if err != nil {
		return err
	}
	timeout := minWatch + rand.N(minWatch)
	if o.TimeoutSeconds != nil && *o.TimeoutSeconds > 0 {
		timeout = time.Duration(*o.TimeoutSeconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(c.ctx(), timeout)
	defer cancel()
	defer context.AfterFunc(c.s.draining, cancel)()
	stream, err := c.res.Watch(ctx, objectstore.WatchQuery{
		Namespace: c.info.Namespace, Labels: ls, Fields: fs, ResourceVersion: o.ResourceVersion, Match: o.ResourceVersionMatch,
		SendInitialEvents: o.SendInitialEvents, Bookmarks: o.AllowWatchBookmarks,
	})
	if err != nil {
		return err
	}
	defer stream.Close()
	c.w.Header().Set("Content-Type", c.format.ContentType())
	c.w.Header().Set("Cache-Control", "no-cache, private")
	c.w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(c.w)
	_ = out.Flush()
	var buf []byte
	for {
		if !stream.Beginning() {
			fairness.Begun(ctx)
		}
		events, err := stream.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil // ended in order
		case err != nil:
			events = []objectstore.Event{{Type: watch.Error, Err: err}}
		}
		var werr error
		if buf, werr = c.send(buf[:0], events); werr != nil || err != nil {
			return nil // the answer has begun: there is no other way to tell
		}
		if out.Flush() != nil {
			return nil
		}
	}
}

// keptBuffer is how large the buffer of a watch may stay for the next events, in bytes.
const keptBuffer = 16 << 10

// send writes events. b is a buffer; the one that is returned serves the next call.
func (c *call) send(b []byte, events []objectstore.Event) ([]byte, error) {
	var err error
	for _, e := range events {
		if b, err = c.format.AppendEvent(b, c.res.Kind, e, c.shown); err != nil {
			return b, err
		}
	}
	_, err = c.w.Write(b)
	if cap(b) > keptBuffer {
		b = nil
	}
	return b, err
}
