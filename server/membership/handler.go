package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"

	"github.com/keelson-io/keelson/server/errdefs"
	"github.com/keelson-io/keelson/server/peers"
)

// Paths of the peer listener.
const (
	membersPath   = "/members"
	promotePrefix = "/members/promote/"
	versionPath   = "/version"
	downgradePath = "/downgrade/enabled"
)

// HandlerConfig is what the handlers need.
type HandlerConfig struct {
	Cluster *Cluster
	// Promote promotes a learner for the client whose token is in the incoming metadata, and returns the members afterwards.
	Promote func(ctx context.Context, id uint64) ([]*Member, error)
	// Gate waits until this member has applied everything that was committed before the call.
	Gate func(context.Context) error
	// StorageVersion is "" if unknown; may be nil.
	StorageVersion func() string
	Logger         *zap.Logger
}

type handler struct{ cfg HandlerConfig }

// NewHandler serves other members, on the peer listener: GET /members, POST /members/promote/{id}, GET /version and
// GET /downgrade/enabled. Anything else is not found.
func NewHandler(cfg HandlerConfig) http.Handler {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	h := &handler{cfg}
	mux := http.NewServeMux()
	mux.HandleFunc(membersPath, only(http.MethodGet, h.members))
	mux.HandleFunc(promotePrefix, only(http.MethodPost, h.promote))
	mux.HandleFunc(versionPath, only(http.MethodGet, h.version))
	mux.HandleFunc(downgradePath, only(http.MethodGet, h.downgrade))
	return mux
}

func only(method string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method {
			w.Header().Set("Allow", method)
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		next(w, r)
	}
}

func (h *handler) sign(w http.ResponseWriter) {
	w.Header().Set(peers.ClusterIDHeader, FormatID(h.cfg.Cluster.ClusterID()))
}

func (h *handler) members(w http.ResponseWriter, _ *http.Request) {
	h.sign(w)
	writeMembers(w, h.cfg.Cluster.Members())
}

// writeMembers sends a list of members; if the connection is gone there is nobody to tell.
func writeMembers(w http.ResponseWriter, members []*Member) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(members)
}

func (h *handler) promote(w http.ResponseWriter, r *http.Request) {
	h.sign(w)
	text := strings.TrimPrefix(r.URL.Path, promotePrefix)
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		http.Error(w, fmt.Sprintf("member %s not found in cluster", text), http.StatusNotFound)
		return
	}
	ctx := r.Context()
	if t := r.Header.Get(tokenHeader); t != "" {
		ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(rpctypes.TokenFieldNameGRPC, t))
	}
	members, err := h.cfg.Promote(ctx, id)
	if err == nil {
		writeMembers(w, members)
		return
	}
	h.cfg.Logger.Warn("failed to promote a member", zap.String("member-id", FormatID(id)), zap.Error(err))
	switch {
	case errors.Is(err, ErrIDNotFound):
		http.Error(w, err.Error(), http.StatusNotFound)
	case errors.Is(err, ErrMemberNotLearner), errors.Is(err, errdefs.ErrLearnerNotReady):
		http.Error(w, err.Error(), http.StatusPreconditionFailed)
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte(`{"message":"Internal Server Error"}`))
	}
}

func (h *handler) version(w http.ResponseWriter, _ *http.Request) {
	body, err := json.Marshal(versionsOf(h.cfg.Cluster, h.cfg.StorageVersion))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

// versionsOf gathers the versions of this member.
func versionsOf(c *Cluster, storage func() string) version.Versions {
	vs := version.Versions{Server: version.Version, Cluster: c.Version(), Storage: unknownVersion}
	if vs.Cluster == "" {
		vs.Cluster = notDecided
	}
	if storage != nil && storage() != "" {
		vs.Storage = storage()
	}
	return vs
}

func (h *handler) downgrade(w http.ResponseWriter, r *http.Request) {
	h.sign(w)
	if err := h.cfg.Gate(r.Context()); err != nil {
		http.Error(w, fmt.Sprintf("failed linearized read: %v", err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write(strconv.AppendBool(nil, h.cfg.Cluster.Downgrade().Enabled))
}
