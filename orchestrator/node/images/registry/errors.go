package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// What errors of this package are.
var (
	ErrNotFound     = errors.New("not found")
	ErrUnauthorized = errors.New("access denied")
	ErrUnavailable  = errors.New("registry unavailable")
	ErrInvalid      = errors.New("invalid")
)

// failure is an error of a registry.
type failure struct {
	kind error // one of the above
	text string
	err  error
	// again: the same request may succeed in a moment.
	again bool
}

func (f *failure) Error() string { return f.text }

func (f *failure) Unwrap() []error { return []error{f.kind, f.err} }

// stalled is the cause of a request that was given up.
type stalled struct {
	host string
	d    time.Duration
}

func (s *stalled) Error() string {
	return fmt.Sprintf("the registry %s has sent nothing for %v", s.host, s.d)
}

// Temporary tells whether what failed may succeed when it is tried again at once.
func Temporary(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.again
}

// explain makes a failure of what a request to a host came to. known: credentials were sent.
func explain(host string, known bool, err error) error {
	var f *failure
	var s *stalled
	var te *transport.Error
	var cert *tls.CertificateVerificationError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return err
	case errors.As(err, &s):
		return &failure{kind: ErrUnavailable, text: s.Error(), err: err}
	case errors.As(err, &cert):
		return &failure{kind: ErrUnavailable, text: fmt.Sprintf("the certificate of the registry %s is not trusted: %s", host, cert.Error()), err: err}
	case errors.As(err, &te):
		return status(host, known, te)
	}
	var op *net.OpError // a timeout of which would pass for one of the context
	if !errors.As(err, &op) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return fmt.Errorf("the registry %s: %w", host, err)
	}
	if broken(err) {
		return &failure{kind: ErrUnavailable, text: fmt.Sprintf("cannot reach the registry %s: %s", host, short(err)), err: err, again: !refused(err)}
	}
	return &failure{kind: ErrUnavailable, text: fmt.Sprintf("the registry %s: %s", host, short(err)), err: err}
}

// broken tells a fault of the network from others.
func broken(err error) bool {
	var ne net.Error
	var op *net.OpError
	return errors.As(err, &op) || errors.As(err, &ne) && ne.Timeout() || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// refused tells a fault that will be there in a second: no such name, nobody listens.
func refused(err error) bool {
	var dns *net.DNSError
	var op *net.OpError
	return errors.As(err, &dns) && dns.IsNotFound || errors.As(err, &op) && op.Op == "dial"
}

// short is the innermost text of an error, without the URLs that net/http puts in front.
func short(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Error()
	}
	for {
		var ue *url.Error
		if !errors.As(err, &ue) {
			break
		}
		err = ue.Err
	}
	return strings.TrimSpace(err.Error())
}

// status explains an answer that is none.
func status(host string, known bool, te *transport.Error) error {
	f := &failure{kind: ErrUnavailable, err: te}
	said := diagnosis(te)
	switch code := te.StatusCode; {
	case code == http.StatusNotFound:
		f.kind, f.text = ErrNotFound, fmt.Sprintf("not found in the registry %s%s", host, said)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		f.kind = ErrUnauthorized
		if f.text = fmt.Sprintf("access denied by the registry %s: it wants credentials, or there is no such repository%s", host, said); known {
			f.text = fmt.Sprintf("access denied by the registry %s: the credentials do not give access%s", host, said)
		}
	case code == http.StatusTooManyRequests:
		f.text, f.again = fmt.Sprintf("the registry %s gets too many requests (429)%s", host, said), true
	case code >= 500:
		f.text, f.again = fmt.Sprintf("the registry %s has a fault (status %d)%s", host, code, said), true
	default:
		f.text = fmt.Sprintf("the registry %s answered with status %d%s", host, code, said)
	}
	return f
}

// diagnosis is what a registry says about its error.
func diagnosis(te *transport.Error) string {
	var all []string
	for _, d := range te.Errors {
		text := string(d.Code)
		if d.Message != "" {
			text += ": " + d.Message
		}
		all = append(all, text)
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, "; ") + ")"
}
