//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// entry is a value that was given to a key.
type entry struct{ Key, Value string }

// book has all entries that were made, in order: the last of a key counts.
type book struct {
	mu      sync.Mutex
	entries []entry
	grown   chan struct{} // closed when there is one more
	leader  string        // URL of the book that this one follows, "" for the leader
	follows bool
}

// keep keeps entries: [-http address] [-leader URL]. /set?key=&value= makes one, /get?key= tells a value. One with a leader
// follows that, is healthy while it does, and takes entries from nobody else.
func keep(args []string) error {
	fs := flag.NewFlagSet("keep", flag.ContinueOnError)
	address := fs.String("http", ":6379", "address to serve on")
	b := &book{grown: make(chan struct{})}
	fs.StringVar(&b.leader, "leader", "", "URL of the leader, for those that follow it")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if b.leader != "" {
		go func() {
			for {
				fmt.Println("following", b.leader, b.copy())
				time.Sleep(100 * time.Millisecond)
			}
		}()
	}
	return untilEnd(func() error { return http.ListenAndServe(*address, b.handler()) })
}

// untilEnd serves until it is asked to end.
func untilEnd(serve func() error) error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM, unix.SIGINT)
	failed := make(chan error, 1)
	go func() { failed <- serve() }()
	select {
	case err := <-failed:
		return err
	case <-term:
		return nil
	}
}

func (b *book) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/set", func(w http.ResponseWriter, r *http.Request) {
		if b.leader != "" {
			http.Error(w, "the leader makes entries", http.StatusMisdirectedRequest)
			return
		}
		b.add(entry{r.FormValue("key"), r.FormValue("value")})
	})
	mux.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, b.value(r.FormValue("key"))) })
	mux.HandleFunc("/follow", b.follow)
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if b.mu.Lock(); b.leader != "" && !b.follows {
			http.Error(w, "there is no leader", http.StatusServiceUnavailable)
		}
		b.mu.Unlock()
	})
	return mux
}

func (b *book) add(e entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries = append(b.entries, e)
	close(b.grown)
	b.grown = make(chan struct{})
}

// after returns the entries behind the first n, and what is closed when there are more.
func (b *book) after(n int) ([]entry, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entries[n:], b.grown
}

func (b *book) value(key string) (value string) {
	all, _ := b.after(0)
	for _, e := range all {
		if e.Key == key {
			value = e.Value
		}
	}
	return value
}

// follow sends all entries, and then each that is made.
func (b *book) follow(w http.ResponseWriter, r *http.Request) {
	for n := 0; ; {
		more, grown := b.after(n)
		for _, e := range more {
			if json.NewEncoder(w).Encode(e) != nil {
				return // nobody listens
			}
		}
		n += len(more)
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-grown:
		case <-r.Context().Done():
			return
		}
	}
}

// copy is the other end of follow. It returns why that has ended; the next one begins with the first entry again.
func (b *book) copy() error {
	r, err := http.Get(b.leader + "/follow")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return errors.New(r.Status)
	}
	b.following(true)
	defer b.following(false)
	for in := json.NewDecoder(r.Body); ; {
		var e entry
		if err := in.Decode(&e); err != nil {
			return err
		}
		b.add(e)
	}
}

func (b *book) following(is bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.follows = is
}

// front is what users see: [-http address] -leader URL -replicas URL. /guestbook?cmd=set makes an entry on the leader,
// /guestbook?cmd=get reads one from a replica.
func front(args []string) error {
	fs := flag.NewFlagSet("front", flag.ContinueOnError)
	address := fs.String("http", ":8080", "address to serve on")
	leader := fs.String("leader", "", "URL of the leader")
	replicas := fs.String("replicas", "", "URL of the replicas")
	if err := fs.Parse(args); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/guestbook", func(w http.ResponseWriter, r *http.Request) {
		query := url.Values{"key": {r.FormValue("key")}, "value": {r.FormValue("value")}}.Encode()
		at := *replicas + "/get?" + query
		if r.FormValue("cmd") == "set" {
			at = *leader + "/set?" + query
		}
		body, err := fetch(at, 5*time.Second, "", nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = io.WriteString(w, body)
	})
	return untilEnd(func() error { return http.ListenAndServe(*address, mux) })
}
