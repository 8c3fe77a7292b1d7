package integrity

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/mvcc/backend"
)

// bytesHeader says how long a database is; its SHA-256 comes behind it.
const bytesHeader = "X-Keelson-Bytes"

// StateConfig is what serving this member's database to others needs.
type StateConfig struct {
	// Applied waits until everything up to an index is applied.
	Applied func(ctx context.Context, index uint64) error
	Backend func() *backend.Backend
	Timeout time.Duration // of Applied
	Logger  *zap.Logger
}

// StateHandler serves the database to a member that replaces its own, one at a time.
func (c *Checker) StateHandler(cfg StateConfig) http.Handler {
	busy := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !c.asker().Admit(w, r) {
			return
		}
		index, err := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
		if err != nil {
			http.Error(w, "index must be a number", http.StatusBadRequest)
			return
		}
		select {
		case busy <- struct{}{}:
			defer func() { <-busy }()
		default:
			http.Error(w, "another member is getting the database", http.StatusServiceUnavailable)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), cfg.Timeout)
		defer cancel()
		if err := cfg.Applied(ctx, index); err != nil {
			http.Error(w, fmt.Sprintf("index %d is not applied here: %v", index, err), http.StatusServiceUnavailable)
			return
		}
		if c.Quarantined() {
			http.Error(w, "the data of this member differ from those of the majority", http.StatusConflict)
			return
		}
		snap, err := cfg.Backend().Snapshot()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer func() { _ = snap.Close() }()
		cfg.Logger.Info("sending the database to a member that replaces its own", zap.String("remote-addr", r.RemoteAddr), zap.Int64("bytes", snap.Size()))
		w.Header().Set(bytesHeader, strconv.FormatInt(snap.Size(), 10))
		w.Header().Set("Content-Type", "application/octet-stream")
		sum := sha256.New()
		if _, err := snap.WriteTo(io.MultiWriter(w, sum)); err == nil {
			_, _ = w.Write(sum.Sum(nil))
		}
	})
}
