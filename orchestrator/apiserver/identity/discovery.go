package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// Paths of OpenID Connect's discovery.
const (
	ConfigurationPath = "/.well-known/openid-configuration"
	KeysPath          = "/openid/v1/jwks"
)

// Discovery tells others how to verify service account tokens. Its handler serves ConfigurationPath and KeysPath.
type Discovery struct {
	issuer, keysURL string
	keys            *Keyring
}

// NewDiscovery describes an issuer, whose name has to be a URL by https. The URL of the keys may be "": it is KeysPath at an
// address of the API server.
func NewDiscovery(issuer, keysURL, address string, keys *Keyring) (*Discovery, error) {
	u, err := url.Parse(issuer)
	switch {
	case err != nil:
		return nil, fmt.Errorf("identity: issuer: %w", err)
	case u.Scheme != "https":
		return nil, fmt.Errorf("identity: issuer URL must use https scheme, got: %s", issuer)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("identity: issuer URL may not include a query or a fragment, got: %s", issuer)
	case keysURL == "" && address == "":
		return nil, errors.New("identity: discovery needs the URL of the keys, or an address")
	case keysURL == "":
		keysURL = (&url.URL{Scheme: "https", Host: address, Path: KeysPath}).String()
	}
	if u, err = url.Parse(keysURL); err != nil || u.Scheme != "https" {
		return nil, fmt.Errorf("identity: %q is no https URL for keys", keysURL)
	}
	return &Discovery{issuer: issuer, keysURL: keysURL, keys: keys}, nil
}

// ServeHTTP answers with the configuration or the keys.
func (d *Discovery) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body any
	contentType := "application/json"
	keys := d.keys.keys.Load().public
	switch r.URL.Path {
	case ConfigurationPath:
		var algorithms []string
		for _, k := range keys {
			algorithms = append(algorithms, k.Algorithm)
		}
		slices.Sort(algorithms)
		body = configuration{
			Issuer: d.issuer, Keys: d.keysURL, ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public"},
			Algorithms: slices.Compact(algorithms),
		}
	case KeysPath:
		body, contentType = jose.JSONWebKeySet{Keys: keys}, "application/jwk-set+json"
	default:
		http.NotFound(w, r)
		return
	}
	data, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "public, max-age=3600")
	_, _ = w.Write(data)
}

// configuration is the part of the provider metadata that verifiers need.
type configuration struct {
	Issuer        string   `json:"issuer"`
	Keys          string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
}
