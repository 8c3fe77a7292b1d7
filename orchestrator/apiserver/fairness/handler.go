package fairness

import (
	"context"
	"net/http"
	"strconv"
	"sync"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// Gate is the handler that stands before those whose work is bounded.
type Gate struct {
	Limiter *Limiter
	// Apart says which requests take no seat: those whose answers go on and on. Watches are not among them: they have a seat
	// until they have begun.
	Apart func(*request.Info) bool
	// Width returns how many seats a request takes; nil: one.
	Width func(*http.Request, *request.Info) int
}

// The names of headers are in the form that http.Header has them under.
const (
	schemaHeader = "X-Kubernetes-Pf-Flowschema-Uid"
	levelHeader  = "X-Kubernetes-Pf-Prioritylevel-Uid"
)

// Handler lets requests pass as they get seats. They carry their user and Info in their context.
func (g *Gate) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		i, u := request.InfoFrom(ctx), request.UserFrom(ctx)
		switch {
		case i == nil || u == nil:
			http.Error(w, "a request without a user cannot be classified", http.StatusInternalServerError)
			return
		case g.Apart(i):
			next.ServeHTTP(w, r)
			return
		}
		width := 1
		if g.Width != nil {
			width = g.Width(r, i)
		}
		seat, err := g.Limiter.Enter(ctx, u, i, width)
		h := w.Header()
		h[schemaHeader], h[levelHeader] = seat.schema.uid, seat.schema.lvlUID
		switch {
		case err != nil:
			g.reject(w, &seat)
		case i.Verb == "watch":
			b := &beginning{limiter: g.Limiter, seat: seat}
			defer b.end()
			next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, beginningKey{}, b)))
		default:
			defer g.Limiter.Leave(&seat)
			next.ServeHTTP(w, r)
		}
	})
}

// reject answers as kube-apiserver does: in plain text.
func (g *Gate) reject(w http.ResponseWriter, s *Seat) {
	after := s.level.rejected(g.Limiter.cfg.Clock.Now())
	w.Header().Set("Retry-After", strconv.Itoa(after))
	http.Error(w, "Too many requests, please try again later.", http.StatusTooManyRequests)
}

// beginning is the part of a watch that takes a seat.
type beginning struct {
	limiter *Limiter
	seat    Seat
	once    sync.Once
}

func (b *beginning) end() { b.once.Do(func() { b.limiter.Leave(&b.seat) }) }

type beginningKey struct{}

// Begun gives back the seat of a watch: what is to come are changes only.
func Begun(ctx context.Context) {
	if b, ok := ctx.Value(beginningKey{}).(*beginning); ok {
		b.end()
	}
}
