// Command web is the program of the examples: an HTTP server that answers with a page from a file, and with the name of its host.
//
// It also shows what a program that is rolled without a failed request has to do: it goes on answering for a while after it
// was told to end, until nobody sends it requests any more.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	addr := flag.String("listen", ":8080", "address to listen on")
	page := flag.String("page", "/etc/web/page", "file with the page")
	visits := flag.String("visits", "", "file that counts visits; empty: none")
	drain := flag.Duration("drain", 3*time.Second, "how long to answer after the signal to end")
	once := flag.Bool("once", false, "say which piece of a job this is, and end")
	flag.Parse()
	if *once {
		fmt.Println("web 1, piece", os.Getenv("JOB_COMPLETION_INDEX"))
		return
	}
	if err := run(*addr, *page, *visits, *drain); err != nil {
		log.Fatal(err)
	}
}

func run(addr, page, visits string, drain time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	s := &http.Server{Addr: addr, Handler: handler(page, visits), ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- s.ListenAndServe() }()
	log.Printf("listening on %s", addr)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	log.Print("told to end")
	time.Sleep(drain)
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func handler(page, visits string) http.Handler {
	host, _ := os.Hostname()
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		text, err := os.ReadFile(page)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "%s: %s", host, text)
		if visits != "" {
			if err := count(visits); err != nil {
				log.Print(err)
			}
		}
		log.Printf("%s %s %s", r.RemoteAddr, r.Method, r.URL.Path)
	})
	return mux
}

// count adds a byte to a file, whose size is then the number of visits.
func count(file string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(".")
	return errors.Join(err, f.Close())
}
