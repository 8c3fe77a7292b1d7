package transport

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"
)

// Headers of a request between members.
const (
	headerClusterID  = "X-Etcd-Cluster-ID"
	headerFrom       = "X-Server-From"
	headerVersion    = "X-Server-Version"
	headerMinCluster = "X-Min-Cluster-Version"
	headerTo         = "X-Raft-To"
	headerPeerURLs   = "X-PeerURLs"
)

func formatID(id uint64) string { return strconv.FormatUint(id, 16) }

func parseID(s string) (uint64, error) { return strconv.ParseUint(s, 16, 64) }

// release is the part of a version that decides whether two members can work together.
type release struct{ major, minor int }

func (r release) before(o release) bool {
	return r.major < o.major || r.major == o.major && r.minor < o.minor
}

func parseRelease(s string) (release, error) {
	if s == "" {
		return release{2, 0}, nil // etcd 2.0 did not say
	}
	parts := strings.SplitN(s, ".", 3)
	if len(parts) != 3 {
		return release{}, fmt.Errorf("transport: malformed version %q", s)
	}
	major, err := strconv.ParseUint(parts[0], 10, 16)
	minor, err2 := strconv.ParseUint(parts[1], 10, 16)
	if err := errors.Join(err, err2); err != nil {
		return release{}, fmt.Errorf("transport: malformed version %q: %w", s, err)
	}
	return release{int(major), int(minor)}, nil
}

// compatible checks the versions that a peer names in a request.
func compatible(h http.Header) error {
	theirs, err := parseRelease(h.Get(headerVersion))
	theirMin, err2 := parseRelease(h.Get(headerMinCluster))
	ours, err3 := parseRelease(version.Version)
	ourMin, err4 := parseRelease(version.MinClusterVersion)
	switch err := errors.Join(err, err2, err3, err4); {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrIncompatibleVersion, err)
	case theirs.before(ourMin):
		return fmt.Errorf("%w: the peer's version %s is too low", ErrIncompatibleVersion, h.Get(headerVersion))
	case ours.before(theirMin):
		return fmt.Errorf("%w: the peer needs version %s", ErrIncompatibleVersion, h.Get(headerMinCluster))
	}
	return nil
}

// checkHeaders answers a request from a member that this one cannot work with, and reports whether it may go on.
func (t *Transport) checkHeaders(w http.ResponseWriter, r *http.Request) bool {
	w.Header().Set(headerClusterID, formatID(t.cfg.ClusterID))
	w.Header().Set(headerVersion, version.Version)
	refused, detail := ErrIncompatibleVersion, compatible(r.Header)
	if theirs := r.Header.Get(headerClusterID); detail == nil && theirs != formatID(t.cfg.ClusterID) {
		refused, detail = ErrClusterIDMismatch, fmt.Errorf("%w: %q", ErrClusterIDMismatch, theirs)
	}
	if detail == nil {
		return true
	}
	t.lg.Warn("refused a request of a peer", zap.String("path", r.URL.Path), zap.String("from", r.Header.Get(headerFrom)), zap.Error(detail))
	http.Error(w, refused.Error(), http.StatusPreconditionFailed)
	return false
}

// setHeaders makes a request one of this member.
func (t *Transport) setHeaders(h http.Header) {
	h.Set(headerFrom, formatID(t.cfg.ID))
	h.Set(headerVersion, version.Version)
	h.Set(headerMinCluster, version.MinClusterVersion)
	h.Set(headerClusterID, formatID(t.cfg.ClusterID))
	if len(t.cfg.LocalURLs) > 0 {
		h.Set(headerPeerURLs, strings.Join(t.cfg.LocalURLs, ","))
	}
}

// errorText reads the short text of an answer that is not a success.
func errorText(r io.Reader) string {
	b, err := io.ReadAll(io.LimitReader(r, 4096))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(string(b), "\n")
}

// answerError is the error that the answer to a POST stands for, nil for success.
func answerError(code int, text string, u *url.URL) error {
	switch {
	case code == http.StatusNoContent:
		return nil
	case code == http.StatusPreconditionFailed && text == ErrIncompatibleVersion.Error():
		return ErrIncompatibleVersion
	case code == http.StatusPreconditionFailed && text == ErrClusterIDMismatch.Error():
		return ErrClusterIDMismatch
	case code == http.StatusForbidden && strings.Contains(text, errFromRemoved.Error()):
		return ErrMemberRemoved
	}
	return fmt.Errorf("transport: %s answered %d: %q", u, code, text)
}
