package aggregate

import (
	"maps"
	"strings"
)

// The object in which other servers read whom to believe.
const (
	TrustNamespace = "kube-system"
	TrustName      = "extension-apiserver-authentication"
)

// Trust is whom other API servers believe: clients by their certificates, and this server, when it says who asks.
type Trust struct {
	// ClientAuthorities sign certificates of clients, in PEM; nil: none.
	ClientAuthorities []byte
	// Authority signed the certificate of this server, in PEM, and Name is who the certificate is for; nil: there is none.
	Authority []byte
	Name      string
}

// Data is what the object has to hold. What other API servers have put there stays.
func (t Trust) Data(is map[string]string) map[string]string {
	out := maps.Clone(is)
	if out == nil {
		out = map[string]string{}
	}
	add := func(key string, pem []byte) {
		if text := string(pem); text != "" && !strings.Contains(out[key], strings.TrimSpace(text)) {
			if old := out[key]; old != "" && !strings.HasSuffix(old, "\n") {
				out[key] += "\n"
			}
			out[key] += text
		}
	}
	add("client-ca-file", t.ClientAuthorities)
	add("requestheader-client-ca-file", t.Authority)
	if len(t.Authority) > 0 {
		out["requestheader-allowed-names"] = `["` + t.Name + `"]`
		out["requestheader-username-headers"] = `["X-Remote-User"]`
		out["requestheader-uid-headers"] = `["X-Remote-Uid"]`
		out["requestheader-group-headers"] = `["X-Remote-Group"]`
		out["requestheader-extra-headers-prefix"] = `["X-Remote-Extra-"]`
	}
	return out
}
