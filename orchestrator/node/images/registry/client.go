package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// maxManifest is how large a manifest may be, in bytes.
const maxManifest = 4 << 20

const accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
	"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, " +
	"application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1, */*;q=0.1"

// Client is what registries are reached with.
type Client struct {
	cfg Config

	mu         sync.Mutex
	transports map[string]*http.Transport // by host
}

// New returns a client.
func New(cfg Config) *Client {
	if cfg.Stall <= 0 {
		cfg.Stall = 30 * time.Second
	}
	if cfg.Retries == 0 {
		cfg.Retries = 3
	}
	if cfg.Pause <= 0 {
		cfg.Pause = 200 * time.Millisecond
	}
	return &Client{cfg: cfg, transports: map[string]*http.Transport{}}
}

// Close closes connections that are idle.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.transports {
		t.CloseIdleConnections()
	}
}

func (c *Client) transport(host string) (*guarded, error) {
	h := c.cfg.host(host)
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.transports[host]
	if !ok {
		var err error
		if t, err = newTransport(h, c.cfg.Stall); err != nil {
			return nil, &failure{kind: ErrUnavailable, err: err, text: fmt.Sprintf("the certificates for the registry %s: %v", host, err)}
		}
		c.transports[host] = t
	}
	return &guarded{inner: t, host: host, stall: c.cfg.Stall, http: h.PlainHTTP || loopback(host), https: !h.PlainHTTP}, nil
}

// endpoint is one place where a repository may be.
type endpoint struct {
	client *Client
	host   string
	repo   string
	auth   *Auth
	action string // a scope of ggcr's transport
	known  bool   // credentials are sent

	mu     sync.Mutex
	ready  *http.Client
	scheme string

	down atomic.Bool // a mirror that could not be reached: it is not asked again
}

func (c *Client) endpoint(host, repo string, auth *Auth, action string) *endpoint {
	if h := c.cfg.host(host); auth.None() && h.Username != "" {
		auth = &Auth{Username: h.Username, Password: h.Password}
	}
	return &endpoint{client: c, host: host, repo: repo, auth: auth, action: action}
}

// connect finds out how the registry wants to be spoken to, once.
func (e *endpoint) connect(ctx context.Context) (*http.Client, string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ready != nil {
		return e.ready, e.scheme, nil
	}
	rt, repo, err := e.login(ctx)
	if err != nil {
		return nil, "", explain(e.host, e.known, err)
	}
	e.ready, e.scheme = &http.Client{Transport: rt}, repo.Scheme()
	return e.ready, e.scheme, nil
}

// name is the repository as go-containerregistry has it.
func (e *endpoint) name() (name.Repository, error) {
	var opts []name.Option
	if e.client.cfg.host(e.host).PlainHTTP || loopback(e.host) {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(e.host, opts...)
	if err != nil {
		return name.Repository{}, &failure{kind: ErrInvalid, err: err, text: fmt.Sprintf("%q is no registry: %v", e.host, err)}
	}
	return reg.Repo(e.repo), nil
}

func (e *endpoint) login(ctx context.Context) (http.RoundTripper, name.Repository, error) {
	repo, err := e.name()
	if err != nil {
		return nil, repo, err
	}
	auth, err := e.auth.authenticator(e.host)
	if err != nil {
		return nil, repo, err
	}
	e.known = auth != authn.Anonymous
	g, err := e.client.transport(e.host)
	if err != nil {
		return nil, repo, err
	}
	rt, err := transport.NewWithContext(ctx, repo.Registry, auth, g, []string{repo.Scope(e.action)})
	return rt, repo, err
}

// get asks for something of the repository.
func (e *endpoint) get(ctx context.Context, what string, header http.Header, want ...int) (*http.Response, error) {
	client, scheme, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	repo, err := e.name()
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("%s://%s/v2/%s/%s", scheme, repo.RegistryStr(), e.repo, what)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, explain(e.host, e.known, err)
	}
	if err := transport.CheckError(resp, want...); err != nil {
		_ = resp.Body.Close()
		return nil, explain(e.host, e.known, err)
	}
	return resp, nil
}

// Repository is one of images, at its mirrors and its registry.
type Repository struct {
	endpoints []*endpoint // the registry itself last
	cfg       *Config
}

// Repository returns a repository of a registry ("docker.io") to read from. Nothing is asked yet.
func (c *Client) Repository(host, repo string, auth *Auth) *Repository {
	r := &Repository{cfg: &c.cfg}
	for _, m := range c.cfg.host(host).Mirrors {
		mirror, prefix, _ := strings.Cut(m, "/")
		r.endpoints = append(r.endpoints, c.endpoint(mirror, path.Join(prefix, repo), nil, transport.PullScope))
	}
	r.endpoints = append(r.endpoints, c.endpoint(host, repo, auth, transport.PullScope))
	return r
}

// Manifest is a manifest or an index, as it came.
type Manifest struct {
	MediaType string
	Digest    string // of Body
	Body      []byte
}

// Manifest gets a manifest by tag or digest.
func (r *Repository) Manifest(ctx context.Context, reference string) (m Manifest, err error) {
	err = r.each(ctx, func(e *endpoint) error {
		m, err = e.manifest(ctx, reference)
		return err
	})
	return m, err
}

func (e *endpoint) manifest(ctx context.Context, reference string) (Manifest, error) {
	resp, err := e.get(ctx, "manifests/"+reference, http.Header{"Accept": {accept}}, http.StatusOK)
	if err != nil {
		return Manifest{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return Manifest{}, explain(e.host, e.known, err)
	}
	if len(body) > maxManifest {
		return Manifest{}, &failure{kind: ErrInvalid, err: ErrInvalid, text: fmt.Sprintf("the registry %s sent a manifest of more than %d bytes", e.host, maxManifest)}
	}
	sum := sha256.Sum256(body)
	m := Manifest{MediaType: resp.Header.Get("Content-Type"), Digest: "sha256:" + hex.EncodeToString(sum[:]), Body: body}
	if strings.HasPrefix(reference, "sha256:") && reference != m.Digest {
		return Manifest{}, &failure{kind: ErrInvalid, err: ErrInvalid, text: fmt.Sprintf("the registry %s sent %s when asked for %s", e.host, m.Digest, reference)}
	}
	return m, nil
}

// Blob gets a blob of a size from an offset on. A registry that cannot do that starts at its beginning: it returns at which
// offset, and the registry's host.
func (r *Repository) Blob(ctx context.Context, digest string, offset, size int64) (body io.ReadCloser, at int64, host string, err error) {
	err = r.each(ctx, func(e *endpoint) error {
		body, at, err = e.blob(ctx, digest, offset, size)
		host = e.host
		return err
	})
	return body, at, host, err
}

func (e *endpoint) blob(ctx context.Context, digest string, offset, size int64) (io.ReadCloser, int64, error) {
	if offset == 0 {
		resp, err := e.get(ctx, "blobs/"+digest, nil, http.StatusOK)
		if err != nil {
			return nil, 0, err
		}
		return &explained{resp.Body, e}, 0, nil
	}
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", offset, size-1)}}
	resp, err := e.get(ctx, "blobs/"+digest, header, http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	if err != nil {
		return nil, 0, err
	}
	part := strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset))
	switch {
	case resp.StatusCode == http.StatusOK:
		return &explained{resp.Body, e}, 0, nil
	case resp.StatusCode == http.StatusPartialContent && part:
		return &explained{resp.Body, e}, offset, nil
	}
	_ = resp.Body.Close() // it does not understand what was asked, or sends another part
	return e.blob(ctx, digest, 0, size)
}

// explained is a body whose errors say what they mean.
type explained struct {
	io.ReadCloser
	e *endpoint
}

func (x *explained) Read(p []byte) (int, error) {
	n, err := x.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = explain(x.e.host, x.e.known, err)
	}
	return n, err
}

// each tries an action at one endpoint after the other until one succeeds, and again at each what fails in passing. The error
// is that of the registry itself, with those of mirrors behind.
func (r *Repository) each(ctx context.Context, f func(*endpoint) error) error {
	var mirrors []string
	for i, e := range r.endpoints {
		if e.down.Load() {
			continue
		}
		err := retry(ctx, r.cfg, func() error { return f(e) })
		if err == nil || ctx.Err() != nil {
			return err
		}
		if i < len(r.endpoints)-1 {
			e.down.Store(errors.Is(err, ErrUnavailable))
			mirrors = append(mirrors, err.Error())
			continue
		}
		if len(mirrors) > 0 {
			return fmt.Errorf("%w (mirrors before it: %s)", err, strings.Join(mirrors, "; "))
		}
		return err
	}
	return errors.New("registry: no endpoint")
}

func retry(ctx context.Context, cfg *Config, f func() error) error {
	pause := cfg.Pause
	for attempt := 0; ; attempt++ {
		err := f()
		if err == nil || attempt >= cfg.Retries || !Temporary(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
			pause *= 2
		}
	}
}
