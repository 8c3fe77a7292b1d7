package registration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keelson-io/keelson/internal/jointoken"
)

// DiscoverConfig is what a machine knows of a cluster that it is to join.
type DiscoverConfig struct {
	Server string // URL of the API server
	Token  string
	Pins   []string // of the authorities that the cluster may have: one is enough
	// Dir is where the authorities are kept once they are known: a token does not live long, but the node is to start again.
	Dir string
	// Patience is how long the cluster is asked; 0: five minutes.
	Patience time.Duration
	Logger   *zap.Logger // nil: none
}

const (
	authoritiesFile   = "ca.crt"
	discoveryPatience = 5 * time.Minute
	discoveryTimeout  = 10 * time.Second // of one attempt
	discoveryPause    = time.Second
)

// Discover finds out by which authorities a cluster is known, and returns how its API server is reached with the token. It believes
// nothing that is not signed with the token and by an authority with one of the pins. Errors that would not go away are told at once,
// others when the patience is over.
func Discover(ctx context.Context, cfg DiscoverConfig) (*rest.Config, error) {
	token, pins, err := cfg.parse()
	if err != nil {
		return nil, err
	}
	known := filepath.Join(cfg.Dir, authoritiesFile)
	if text, err := os.ReadFile(known); err == nil {
		if ca, err := jointoken.Pinned(text, pins...); err == nil {
			return cfg.reached(ca), nil
		} // it is another cluster's
	}
	until := time.Now().Add(cfg.Patience)
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	var last error
	for {
		ca, err := cfg.attempt(ctx, token, pins)
		if err == nil {
			return cfg.reached(ca), keepAuthorities(known, ca)
		}
		var final finalError
		if errors.As(err, &final) {
			return nil, fmt.Errorf("registration: the cluster at %s: %w", cfg.Server, err)
		}
		switch {
		case last == nil:
			cfg.Logger.Warn("waiting for the cluster to tell of itself", zap.String("server", cfg.Server), zap.Error(err))
			last = err
		case ctx.Err() == nil && time.Now().Before(until): // otherwise the time was over: it says less than what was wrong before
			last = err
		}
		select {
		case <-time.After(discoveryPause):
		case <-ctx.Done():
			return nil, fmt.Errorf("registration: the cluster at %s: %w", cfg.Server, last)
		}
	}
}

// finalError is one that waiting does not cure.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

func (cfg *DiscoverConfig) parse() (token jointoken.Token, pins []jointoken.Pin, err error) {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Patience == 0 {
		cfg.Patience = discoveryPatience
	}
	if !strings.Contains(cfg.Server, "://") {
		cfg.Server = "https://" + cfg.Server
	}
	if token, err = jointoken.Parse(cfg.Token); err != nil {
		return token, nil, fmt.Errorf("registration: %w", err)
	}
	for _, text := range cfg.Pins {
		p, err := jointoken.ParsePin(text)
		if err != nil {
			return token, nil, fmt.Errorf("registration: %w", err)
		}
		pins = append(pins, p)
	}
	if len(pins) == 0 {
		return token, nil, errors.New("registration: there is no hash of the cluster's authority")
	}
	return token, pins, nil
}

func (cfg *DiscoverConfig) reached(ca []byte) *rest.Config {
	return &rest.Config{Host: cfg.Server, BearerToken: cfg.Token, TLSClientConfig: rest.TLSClientConfig{CAData: ca}}
}

// attempt asks whoever is there, and then again the one who has the certificate that he should have.
func (cfg *DiscoverConfig) attempt(ctx context.Context, token jointoken.Token, pins []jointoken.Pin) (ca []byte, err error) {
	first, err := cfg.info(ctx, rest.TLSClientConfig{Insecure: true})
	if err != nil {
		return nil, err
	}
	text := first.Data[jointoken.InfoKey]
	signature, ok := first.Data[jointoken.SignatureKey+token.ID]
	switch {
	case !ok: // it may have been made just now
		return nil, fmt.Errorf("it has signed nothing with the token %s: it does not know it, or not for signing, or it has expired", token.ID)
	case !token.Signed(text, signature):
		return nil, finalError{errors.New("what it tells of itself is not signed with the token")}
	}
	c, err := clientcmd.Load([]byte(text))
	if err != nil {
		return nil, finalError{fmt.Errorf("what it tells of itself: %w", err)}
	}
	for _, one := range c.Clusters {
		ca = append(ca, one.CertificateAuthorityData...)
	}
	if ca, err = jointoken.Pinned(ca, pins...); err != nil {
		return nil, finalError{err}
	}
	again, err := cfg.info(ctx, rest.TLSClientConfig{CAData: ca})
	if err != nil {
		return nil, err
	}
	if again.Data[jointoken.InfoKey] != text {
		return nil, finalError{errors.New("somebody else answers for it")}
	}
	return ca, nil
}

// info reads what the cluster tells strangers.
func (cfg *DiscoverConfig) info(ctx context.Context, secure rest.TLSClientConfig) (*corev1.ConfigMap, error) {
	config := &rest.Config{Host: cfg.Server, TLSClientConfig: secure, Timeout: discoveryTimeout, UserAgent: "keelson-node"}
	hc, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, finalError{err}
	}
	defer hc.CloseIdleConnections()
	client, err := kubernetes.NewForConfigAndClient(config, hc)
	if err != nil {
		return nil, finalError{err}
	}
	return client.CoreV1().ConfigMaps(jointoken.InfoNamespace).Get(ctx, jointoken.InfoName, metav1.GetOptions{})
}

func keepAuthorities(file string, ca []byte) error {
	if was, err := os.ReadFile(file); err == nil && bytes.Equal(was, ca) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	if err := os.WriteFile(file, ca, 0o644); err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	return nil
}
