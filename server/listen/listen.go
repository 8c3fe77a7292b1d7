package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Options are socket options.
type Options struct {
	ReusePort, ReuseAddress bool
}

// Address returns where a URL says to listen, and whether with TLS. URLs are http://host:port, or unix://path, a socket in the
// file system, for which a path without a leading slash is relative; https and unixs are the same with TLS.
func Address(rawURL string) (network, addr string, secure bool, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", "", false, err
	}
	switch u.Scheme {
	case "unix", "unixs":
		return "unix", u.Host + u.Path, u.Scheme == "unixs", nil
	}
	return "tcp", u.Host, u.Scheme == "https", nil
}

// Open listens on the Address of a URL; TLS is left to Split. A socket that is left of a process that is gone is taken over.
func Open(rawURL string, o Options) (net.Listener, error) {
	network, addr, _, err := Address(rawURL)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		return openSocket(addr)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) { inner = o.set(int(fd)) })
		return errors.Join(err, inner)
	}}
	l, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", rawURL, err)
	}
	return l, nil
}

func openSocket(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listening on %s: %w", path, syscall.EADDRINUSE)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return l, nil
}

func (o Options) set(fd int) error {
	var errs []error
	if o.ReusePort {
		errs = append(errs, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	}
	if o.ReuseAddress {
		errs = append(errs, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	return errors.Join(errs...)
}
