package identity

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// Names and groups that have a meaning of their own.
const (
	AnonymousUser        = "system:anonymous"
	Authenticated        = "system:authenticated"
	Unauthenticated      = "system:unauthenticated"
	serviceAccounts      = "system:serviceaccounts"
	serviceAccountPrefix = "system:serviceaccount:"
	extraPrefix          = "authentication.kubernetes.io/"
	credentialKey        = extraPrefix + "credential-id"
	nodeNameKey          = extraPrefix + "node-name"
)

// Authenticator finds a request's user. Neither a user nor an error: it has nothing to go by.
type Authenticator interface {
	Authenticate(r *http.Request) (*request.User, error)
}

// Identity is who a token stands for.
type Identity struct {
	User *request.User
	// Audiences are those of the token that were asked for; nil: the token has none, it is for the API server.
	Audiences []string
}

// TokenAuthenticator finds out who a token stands for: nil without an error is a token of another kind. Audiences are whom
// the token has to be for one of; nil: the API server's.
type TokenAuthenticator interface {
	Token(ctx context.Context, token string, audiences []string) (*Identity, error)
}

// Tokens asks one TokenAuthenticator after the other.
type Tokens []TokenAuthenticator

// Token is the first identity, or all errors.
func (t Tokens) Token(ctx context.Context, token string, audiences []string) (*Identity, error) {
	var errs []error
	for _, next := range t {
		id, err := next.Token(ctx, token, audiences)
		if err != nil {
			errs = append(errs, err)
		} else if id != nil {
			return id, nil
		}
	}
	if len(errs) == 0 {
		return nil, nil
	}
	return nil, utilerrors.NewAggregate(errs)
}

var errInvalidToken = errors.New("invalid bearer token")

// Bearer authenticates by the token of the header Authorization, or of a WebSocket's subprotocol. It takes the token out of
// the request.
type Bearer struct{ Tokens TokenAuthenticator }

// Authenticate finds the token's user.
func (b Bearer) Authenticate(r *http.Request) (*request.User, error) {
	if user, err := b.header(r); user != nil || err != nil {
		return user, err
	}
	return b.webSocket(r)
}

func (b Bearer) header(r *http.Request) (*request.User, error) {
	scheme, token, ok := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return nil, nil
	}
	token, _, _ = strings.Cut(token, " ")
	if token == "" {
		return nil, nil
	}
	user, err := b.token(r.Context(), token)
	if err == nil {
		r.Header.Del("Authorization")
	}
	return user, err
}

func (b Bearer) token(ctx context.Context, token string) (*request.User, error) {
	id, err := b.Tokens.Token(ctx, token, nil)
	if err != nil {
		return nil, err
	}
	if id == nil {
		return nil, errInvalidToken
	}
	return id.User, nil
}

const (
	protocolHeader = "Sec-Websocket-Protocol"
	protocolPrefix = "base64url.bearer.authorization.k8s.io."
)

// webSocket reads the token from a subprotocol, for browsers cannot set headers.
func (b Bearer) webSocket(r *http.Request) (*request.User, error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || !strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade") {
		return nil, nil
	}
	token, others := "", []string{}
	for _, line := range r.Header[protocolHeader] {
		for p := range strings.SplitSeq(line, ",") {
			p = strings.TrimSpace(p)
			encoded, ok := strings.CutPrefix(p, protocolPrefix)
			if !ok {
				others = append(others, p)
				continue
			}
			if token != "" {
				return nil, errors.New("multiple base64.bearer.authorization tokens specified")
			}
			decoded, err := base64.RawURLEncoding.DecodeString(encoded)
			if err != nil {
				return nil, errors.New("invalid base64.bearer.authorization token encoding")
			}
			if !utf8.Valid(decoded) {
				return nil, errors.New("invalid base64.bearer.authorization token")
			}
			token = string(decoded)
		}
	}
	switch {
	case token == "":
		return nil, nil
	case len(others) == 0: // the answer names one, and must not name the token
		return nil, errors.New("missing additional subprotocol")
	}
	user, err := b.token(r.Context(), token)
	if err == nil {
		r.Header.Set(protocolHeader, strings.Join(others, ","))
	}
	return user, err
}

// Static is a fixed table of tokens, which it keeps as hashes only.
type Static struct {
	users map[[sha256.Size]byte]*request.User
}

// NewStatic makes a table from users by their tokens.
func NewStatic(users map[string]request.User) *Static {
	s := &Static{users: make(map[[sha256.Size]byte]*request.User, len(users))}
	for token, u := range users {
		s.users[sha256.Sum256([]byte(token))] = withGroup(&u, Authenticated)
	}
	return s
}

// Token looks a token up.
func (s *Static) Token(_ context.Context, token string, _ []string) (*Identity, error) {
	if u := s.users[sha256.Sum256([]byte(token))]; u != nil {
		return &Identity{User: u}, nil
	}
	return nil, nil
}

// Anonymous makes every request that comes to it that of system:anonymous.
type Anonymous struct {
	// Paths are those for which it does; nil: all.
	Paths []string
}

// Authenticate returns the anonymous user.
func (a Anonymous) Authenticate(r *http.Request) (*request.User, error) {
	if len(a.Paths) > 0 && !slices.Contains(a.Paths, r.URL.Path) {
		return nil, nil
	}
	return &request.User{Name: AnonymousUser, Groups: []string{Unauthenticated}}, nil
}

// withGroup returns a user who is in a group, too.
func withGroup(u *request.User, group string) *request.User {
	if slices.Contains(u.Groups, group) {
		return u
	}
	with := *u
	with.Groups = append(slices.Clip(slices.Clone(u.Groups)), group)
	return &with
}

// authenticated puts a user into system:authenticated, unless his groups say what he is.
func authenticated(u *request.User) *request.User {
	if u.Name == AnonymousUser || slices.Contains(u.Groups, Unauthenticated) {
		return u
	}
	return withGroup(u, Authenticated)
}
