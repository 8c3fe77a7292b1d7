//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// server answers who it is, over HTTP, TCP and UDP.
type server struct {
	name    string
	failing atomic.Bool // what /healthz and the health service say
	files   credentials // of its certificate, and of whom it lets in over TLS

	mu   sync.Mutex
	hits map[string]int // what was asked for: paths, methods with paths, "tcp" and "grpc"
}

func (s *server) hit(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hits[what]++
}

func (s *server) asked(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits[what]
}

// serve runs servers until it is asked to end. With -drain it serves on for so long after that.
func serve(args []string) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	web := fs.String("http", "", "address to serve HTTP on, such as :8080")
	secure := fs.String("https", "", "address to serve the same on over TLS, with a certificate of nobody unless there is -cert; with -ca clients need one, too")
	stream := fs.String("tcp", "", "address to serve TCP on: a client gets a line with the server's name and its own address, then an echo")
	packets := fs.String("udp", "", "address to serve UDP on: a packet is answered with the server's name and the client's address")
	health := fs.String("grpc", "", "address to serve gRPC's health service on")
	name := fs.String("name", "", "name of the server (default: the host's)")
	drain := fs.Duration("drain", 0, "how long to serve after the end was asked for")
	delay := fs.Duration("delay", 0, "how long to wait before serving")
	s := &server{files: credentialFlags(fs), hits: map[string]int{}}
	if err := fs.Parse(args); err != nil {
		return err
	}
	s.name = *name
	if s.name == "" {
		s.name, _ = os.Hostname() // then it has no name
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM, unix.SIGINT)
	time.Sleep(*delay)
	failed := make(chan error, 5)
	for _, part := range []struct {
		address string
		serve   func(string) error
	}{{*web, s.http}, {*stream, s.tcp}, {*packets, s.udp}, {*health, s.grpc}, {*secure, s.https}} {
		if part.address != "" {
			go func() { failed <- part.serve(part.address) }()
		}
	}
	select {
	case err := <-failed:
		return err
	case <-term:
		fmt.Println("ending")
		time.Sleep(*drain)
		return nil
	}
}

func (s *server) http(address string) error { return http.ListenAndServe(address, s.handler()) }

func (s *server) https(address string) error {
	config, err := s.files.server()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := httptest.Server{Listener: l, Config: &http.Server{Handler: s.handler()}, TLS: config}
	server.StartTLS()
	select {} // it has no end
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	say := func(path string, f func(r *http.Request) string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprintln(w, f(r)) })
	}
	say("/", func(*http.Request) string { return s.name })
	say("/client", func(r *http.Request) string { return r.RemoteAddr })
	say("/identity", identity)
	say("/header", func(r *http.Request) string { return r.Header.Get(r.FormValue("name")) })
	say("/sleep", func(r *http.Request) string {
		d, _ := span(r.FormValue("for")) // without one it does not sleep
		time.Sleep(d)
		return s.name
	})
	say("/burn", func(r *http.Request) string {
		if err := burn([]string{r.FormValue("for")}); err != nil {
			return err.Error()
		}
		return s.name
	})
	say("/hits", func(r *http.Request) string { return strconv.Itoa(s.asked(r.FormValue("of"))) })
	say("/fail", func(*http.Request) string { s.failing.Store(true); return "failing" })
	say("/heal", func(*http.Request) string { s.failing.Store(false); return "healthy" })
	say("/get", func(r *http.Request) string { // a request that goes on from here
		body, err := fetch(r.FormValue("url"), 5*time.Second, "", nil)
		if err != nil {
			return "error: " + err.Error()
		}
		return body
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if s.failing.Load() {
			http.Error(w, "failing", http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/status", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		w.WriteHeader(max(code, 200))
	})
	mux.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		os.Exit(code)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.hit(r.URL.Path)
		s.hit(r.Method + " " + r.URL.Path)
		mux.ServeHTTP(w, r)
	})
}

func (s *server) tcp(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		s.hit("tcp")
		go func() {
			defer conn.Close()
			_, _ = fmt.Fprintln(conn, s.name, conn.RemoteAddr())
			_, _ = io.Copy(conn, conn)
		}()
	}
}

func (s *server) udp(address string) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(connTo{conn, from}, "%s %s %s\n", s.name, from, buf[:n]); err != nil {
			return err
		}
	}
}

// connTo writes packets to somebody.
type connTo struct {
	net.PacketConn
	to net.Addr
}

func (c connTo) Write(p []byte) (int, error) { return c.WriteTo(p, c.to) }

func netTools() map[string]func([]string) error {
	return map[string]func([]string) error{
		"serve":   serve,
		"get":     get,
		"tcp":     func(args []string) error { return talk("tcp", args) },
		"udp":     func(args []string) error { return talk("udp", args) },
		"resolve": resolve,
		"dig":     dig,
		"links":   links,
		"keep":    keep,
		"front":   front,
		"wardle":  serveWardle,
	}
}

// get prints what an HTTP server answers: [-n times] [-timeout d] [-host name] [-cert file] [-key file] [-ca file] URL. Each
// request has a connection of its own.
func get(args []string) error {
	fs := flag.NewFlagSet("get", flag.ContinueOnError)
	n := fs.Int("n", 1, "number of requests, one after the other")
	timeout := fs.Duration("timeout", 5*time.Second, "time for each request")
	host := fs.String("host", "", "name of the host that is asked for")
	files := credentialFlags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	config, err := files.client()
	if err != nil {
		return err
	}
	for range *n {
		body, err := fetch(fs.Arg(0), *timeout, *host, config)
		if err != nil {
			return err
		}
		fmt.Print(body)
	}
	return nil
}

func fetch(url string, timeout time.Duration, host string, config *tls.Config) (string, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Host = host
	c := &http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
	r, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode >= 400 {
		err = fmt.Errorf("%s: %s", r.Status, body)
	}
	return string(body), err
}

// talk sends a text, if there is one, and prints the first line that comes back: [-timeout d] ADDRESS [TEXT].
func talk(network string, args []string) error {
	fs := flag.NewFlagSet(network, flag.ContinueOnError)
	timeout := fs.Duration("timeout", 3*time.Second, "time for all of it")
	if err := fs.Parse(args); err != nil {
		return err
	}
	end := time.Now().Add(*timeout)
	d := net.Dialer{Deadline: end}
	conn, err := d.Dial(network, fs.Arg(0))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(end); err != nil {
		return err
	}
	if text := fs.Arg(1); text != "" || network == "udp" {
		if _, err := io.WriteString(conn, text); err != nil {
			return err
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	fmt.Print(line)
	return err
}

// resolve prints the addresses of a name.
func resolve(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, name := range args {
		all, err := net.DefaultResolver.LookupHost(ctx, name)
		if err != nil {
			return err
		}
		if err := lines(all); err != nil {
			return err
		}
	}
	return nil
}

// links prints the interfaces and their addresses.
func links([]string) error {
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range all {
		addresses, err := i.Addrs()
		if err != nil {
			return err
		}
		fmt.Println(i.Name, addresses)
	}
	return nil
}
