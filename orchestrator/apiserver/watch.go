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
	if c.s.draining.Err() != nil {
		return errStopping // a watch that ends at once would make reflectors list anew
	}
	defer context.AfterFunc(c.s.draining, cancel)()
	stream, err := c.res.Watch(ctx, objectstore.WatchQuery{
		Namespace: c.info.Namespace, Labels: ls, Fields: fs, ResourceVersion: o.ResourceVersion, Match: o.ResourceVersionMatch,
		SendInitialEvents: o.SendInitialEvents, Bookmarks: o.AllowWatchBookmarks,
		Begun: func() { fairness.Begun(ctx) },
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
	watched := c.s.meter.Watched(c.info)
	for {
		events, err := stream.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil // ended in order
		case err != nil:
			events = []objectstore.Event{{Type: watch.Error, Err: err}}
		}
		if werr := c.send(events, watched); werr != nil || err != nil {
			return nil // the answer has begun: there is no other way to tell
		}
		if out.Flush() != nil {
			return nil
		}
	}
}

// keptBuffer is how large a buffer may be to be used again, in bytes.
const keptBuffer = 1 << 20

// send writes events, and tells watched the size of each in bytes.
func (c *call) send(events []objectstore.Event, watched func(size int)) error {
	b, ok := c.s.buffers.Get().(*[]byte)
	if !ok {
		b = new([]byte)
	}
	out, err := (*b)[:0], error(nil)
	for _, e := range events {
		before := len(out)
		if out, err = c.format.AppendEvent(out, c.res.Kind, e, c.shown); err != nil {
			break
		}
		watched(len(out) - before)
	}
	if err == nil {
		_, err = c.w.Write(out)
	}
	if err == nil && cap(out) <= keptBuffer { // a write that failed may be going on
		*b = out
		c.s.buffers.Put(b)
	}
	return err
}
