package transport

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// parseURLs parses peer URLs, which name scheme and host:port and nothing else, or a unix socket.
func parseURLs(raw []string) ([]*url.URL, error) {
	if len(raw) == 0 {
		return nil, errors.New("transport: no peer URLs")
	}
	urls := make([]*url.URL, 0, len(raw))
	for _, s := range raw {
		u, err := url.Parse(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("transport: peer URL: %w", err)
		}
		if isSocket(u) && u.Host+u.Path != "" {
			urls = append(urls, u)
			continue
		}
		if u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("transport: peer URL %q: the scheme must be http, https, unix or unixs, with an address", s)
		}
		if _, _, err := net.SplitHostPort(u.Host); err != nil {
			return nil, fmt.Errorf("transport: peer URL %q: %w", s, err)
		}
		if u.Path != "" {
			return nil, fmt.Errorf("transport: peer URL %q must not have a path", s)
		}
		urls = append(urls, u)
	}
	slices.SortFunc(urls, func(a, b *url.URL) int { return strings.Compare(a.String(), b.String()) })
	return urls, nil
}

// urlPicker sticks to one of a member's URLs until it fails.
type urlPicker struct {
	mu     sync.Mutex
	urls   []*url.URL // never empty; the URLs are never changed
	picked int
}

func (p *urlPicker) update(urls []*url.URL) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.urls, p.picked = urls, 0
}

func (p *urlPicker) pick() *url.URL {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.urls[p.picked]
}

// failed moves on from u if it is still the picked one.
func (p *urlPicker) failed(u *url.URL) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if u == p.urls[p.picked] {
		p.picked = (p.picked + 1) % len(p.urls)
	}
}
