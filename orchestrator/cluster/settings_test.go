package cluster

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// TestSettingsErrors: what is wrong with a setting stops the start, and the flag and the file are named.
func TestSettingsErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
		return name
	}
	policy := file("policy", "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
	encrypted := func(name, resources string) Settings {
		return Settings{EncryptionProviderConfig: file(name, head+"resources: "+resources)}
	}
	for want, s := range map[string]Settings{
		"--audit-policy-file: there is no --audit-log-path":        {Audit: Audit{PolicyFile: policy}},
		"--audit-log-path: there is no --audit-policy-file":        {Audit: Audit{LogPath: "-"}},
		"--audit-policy-file: open ":                               {Audit: Audit{PolicyFile: filepath.Join(dir, "none"), LogPath: "-"}},
		"rules[0].level":                                           {Audit: Audit{PolicyFile: file("bad", "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Some}]\n"), LogPath: "-"}},
		"--audit-log-path: open ":                                  {Audit: Audit{PolicyFile: policy, LogPath: filepath.Join(dir, "none", "log")}},
		"--encryption-provider-config: open ":                      {EncryptionProviderConfig: filepath.Join(dir, "none")},
		"want apiVersion apiserver.config.k8s.io/v1":               {EncryptionProviderConfig: file("e8", "apiVersion: v1\nkind: EncryptionConfiguration\n")},
		"resources: there are none":                                encrypted("e0", "[]"),
		"resources[0].resources: there are none":                   encrypted("e1", "[{providers: [{identity: {}}]}]"),
		`resources[0].resources: "*" is no resource`:               encrypted("e2", "[{resources: ['*'], providers: [{identity: {}}]}]"),
		"resources[0].providers: there are none":                   encrypted("e3", "[{resources: [secrets]}]"),
		"resources[0].providers[0]: kms is not supported":          encrypted("e4", "[{resources: [secrets], providers: [{kms: {name: a, endpoint: b}}]}]"),
		"providers[0]: it has 2 of identity":                       encrypted("e5", "[{resources: [secrets], providers: [{identity: {}, aesgcm: {keys: []}}]}]"),
		`providers[0]: key "k": the secret is not in base64`:       encrypted("e6", "[{resources: [secrets], providers: [{aescbc: {keys: [{name: k, secret: '!'}]}}]}]"),
		"encryption provider secretbox, key \"k\": a secret of 3 ": encrypted("e7", "[{resources: [secrets], providers: [{secretbox: {keys: [{name: k, secret: QUJD}]}}]}]"),
		"line 2 has 2 columns":                                     {TokenAuthFile: file("t1", "a,b,c\nd,e\n")},
		"line 1 has no token":                                      {TokenAuthFile: file("t2", ",b,c\n")},
		"--service-account-issuer: ":                               {ServiceAccountIssuer: "https://a?b"},
		"--service-cluster-ip-range: netip":                        {ServiceClusterIPRange: "10.0.0.0"},
		"for 32-bit addresses, the mask must be >= 12":             {ServiceClusterIPRange: "10.0.0.0/8"},
		"of the same family":                                       {ServiceClusterIPRange: "10.0.0.0/16,10.1.0.0/16"},
		"--service-node-port-range: ":                              {ServiceNodePortRange: "9-1"},
		"--tls-cert-file: it goes with":                            {TLSCertFile: policy},
		"failed to find any PEM data":                              {TLSCertFile: policy, TLSPrivateKeyFile: policy},
		"--client-ca-file: " + policy + ": no certificate in PEM":  {ClientCAFile: policy},
		"--metric-resolution: 20ms is less than 1s":                {MetricResolution: 20 * time.Millisecond},
	} {
		_, err := s.read()
		require.ErrorContains(t, err, want)
	}
}

func TestSettings(t *testing.T) {
	s, err := (&Settings{}).read()
	require.NoError(t, err)
	require.Equal(t, "https://kubernetes.default.svc.cluster.local", s.issuer)
	require.Equal(t, "10.96.0.0/16", s.ranges[0].String())
	require.Equal(t, "30000-32767", s.ports.String())
	require.Nil(t, s.transformers)
	require.NoError(t, s.close())

	file := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(file, []byte("# of people\nabc,jane,7,\"dev, ops\"\ndef,joe,8\n"), 0o600))
	s, err = (&Settings{TokenAuthFile: file, ServiceClusterIPRange: "fd00::/112,10.0.0.0/24", ServiceNodePortRange: "80-90"}).read()
	require.NoError(t, err)
	require.Equal(t, map[string]request.User{"abc": {Name: "jane", UID: "7", Groups: []string{"dev", "ops"}}, "def": {Name: "joe", UID: "8"}}, s.tokens)
	require.Len(t, s.ranges, 2)
	require.Equal(t, "80-90", s.ports.String())
}

// TestEncryptionResources: the first entry that names a resource counts.
func TestEncryptionResources(t *testing.T) {
	const key = "{keys: [{name: k, secret: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}]}"
	of, err := encryption([]byte(`apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- {resources: [secrets, crontabs.example.com], providers: [{secretbox: ` + key + `}]}
- {resources: ["*."], providers: [{aesgcm: ` + key + `}]}
- {resources: ["*.apps"], providers: [{aescbc: ` + key + `}]}
- {resources: [leases.coordination.k8s.io], providers: [{identity: {}}]}
`))
	require.NoError(t, err)
	for resource, prefix := range map[schema.GroupResource]string{
		{Resource: "secrets"}:                              "k8s:enc:secretbox:v1:k:",
		{Group: "example.com", Resource: "crontabs"}:       "k8s:enc:secretbox:v1:k:",
		{Resource: "configmaps"}:                           "k8s:enc:aesgcm:v1:k:",
		{Group: "apps", Resource: "deployments"}:           "k8s:enc:aescbc:v1:k:",
		{Group: "coordination.k8s.io", Resource: "leases"}: "x",
	} {
		b, err := of(resource).ToStore([]byte("x"), nil)
		require.NoError(t, err)
		require.Contains(t, string(b), prefix, resource)
	}
	require.Nil(t, of(schema.GroupResource{Group: "batch", Resource: "jobs"}))
}
