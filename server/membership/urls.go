package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ValidateURLs checks URLs that members are to be reached at: http or https with host and port and without a path, or
// unix sockets; at least one.
func ValidateURLs(urls []string) error {
	_, err := normalURLs(urls)
	return err
}

// normalURLs checks URLs as ValidateURLs says and returns them in normal form, sorted.
func normalURLs(in []string) ([]string, error) {
	if len(in) == 0 {
		return nil, errors.New("no valid URLs given")
	}
	out := make([]string, len(in))
	for i, s := range in {
		s = strings.TrimSpace(s)
		u, err := url.Parse(s)
		if err != nil {
			return nil, err
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil {
				return nil, fmt.Errorf(`URL address does not have the form "host:port": %s`, s)
			}
			if u.Path != "" {
				return nil, fmt.Errorf("URL must not contain a path: %s", s)
			}
		case "unix", "unixs":
		default:
			return nil, fmt.Errorf("URL scheme must be http, https, unix, or unixs: %s", s)
		}
		out[i] = u.String()
	}
	slices.Sort(out)
	return out, nil
}

// parseInitialCluster reads "name=url,name=url"; a name may be repeated. The result maps names to their URLs in normal
// form.
func parseInitialCluster(s string) (map[string][]string, error) {
	raw := map[string][]string{}
	for pair := range strings.SplitSeq(s, ",") {
		if pair == "" {
			continue
		}
		name, u, _ := strings.Cut(pair, "=")
		raw[name] = append(raw[name], u)
	}
	for name, urls := range raw {
		normal, err := normalURLs(urls)
		if err != nil {
			return nil, fmt.Errorf("initial cluster, member %q: %w", name, err)
		}
		raw[name] = normal
	}
	return raw, nil
}

// Resolving names may have to wait for a name server that starts at the same time as the cluster.
const (
	resolveTimeout = 30 * time.Second
	resolveRetry   = time.Second
)

// sameURLs says, by returning nil, that two lists of URLs mean the same addresses. Names are resolved only if the texts
// differ.
func sameURLs(ctx context.Context, a, b []string) error {
	if len(a) != len(b) {
		return fmt.Errorf("len(%q) != len(%q)", a, b)
	}
	ua, err := parseURLs(a)
	if err != nil {
		return err
	}
	ub, err := parseURLs(b)
	if err != nil {
		return err
	}
	if slices.EqualFunc(ua, ub, sameURL) {
		return nil
	}
	for _, urls := range [][]*url.URL{ua, ub} {
		for _, u := range urls {
			if err := resolve(ctx, u); err != nil {
				return fmt.Errorf("failed to resolve %q: %w", u, err)
			}
		}
		slices.SortFunc(urls, byText)
	}
	for i := range ua {
		if !sameURL(ua[i], ub[i]) {
			return fmt.Errorf("resolved urls: %q != %q", ua[i], ub[i])
		}
	}
	return nil
}

func parseURLs(in []string) ([]*url.URL, error) {
	out := make([]*url.URL, len(in))
	for i, s := range in {
		u, err := url.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("failed to parse URL %q: %w", s, err)
		}
		out[i] = u
	}
	slices.SortFunc(out, byText)
	return out, nil
}

func byText(a, b *url.URL) int { return strings.Compare(a.String(), b.String()) }

func sameURL(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && a.Path == b.Path && normalHost(a.Host) == normalHost(b.Host)
}

// normalHost brings an IP address into its shortest form; an IPv6 one has many.
func normalHost(host string) string {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, ""
	}
	ip := net.ParseIP(strings.Trim(name, "[]"))
	if ip == nil {
		return host
	}
	text := ip.String()
	if ip.To4() == nil {
		text = "[" + text + "]"
	}
	if port != "" {
		text += ":" + port
	}
	return text
}

// resolve replaces the host name of a URL by an address. Failing look-ups are repeated until ctx ends. "localhost" and
// unix sockets stay as they are.
func resolve(ctx context.Context, u *url.URL) error {
	if u.Scheme == "unix" || u.Scheme == "unixs" {
		return nil
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		return err
	}
	if host == "localhost" {
		return nil
	}
	for {
		addr, err := lookUp(ctx, host, port)
		if err == nil {
			u.Host = addr
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(resolveRetry):
		}
	}
}

func lookUp(ctx context.Context, host, port string) (string, error) {
	number, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return "", err
	}
	addrs, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(addrs[0].String(), strconv.Itoa(number)), nil
}
