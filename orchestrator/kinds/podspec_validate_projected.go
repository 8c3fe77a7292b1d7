package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	minTokenSeconds = 10 * 60
	maxTokenSeconds = 1 << 32

	minPodCertificateSeconds = 3600
	maxPodCertificateSeconds = 91 * 24 * 60 * 60
	// maxOwnCertificateSeconds is how long signers of Kubernetes sign for.
	maxOwnCertificateSeconds = 24 * 60 * 60
)

// projection checks what is put together into a volume.
type projection struct {
	*podCheck
	at    *field.Path // of the volume
	paths sets.Set[string]
}

// file notes that there is a file. value is what the message names.
func (p *projection) file(name, value string) {
	if p.paths.Has(name) {
		p.invalid(p.at, value, "conflicting duplicate paths")
	}
	p.paths.Insert(name)
}

func (p *podCheck) projected(v *corev1.ProjectedVolumeSource, at *field.Path) {
	p.fileMode(at.Child("defaultMode"), v.DefaultMode)
	in := projection{podCheck: p, at: at, paths: sets.Set[string]{}}
	for i := range v.Sources {
		in.source(&v.Sources[i], at.Child("sources").Index(i))
	}
}

func (p *projection) source(s *corev1.VolumeProjection, at *field.Path) {
	n := 0
	for _, c := range []volumeCheck{
		{"secret", s.Secret != nil, func(at *field.Path) { p.items(s.Secret.Name, s.Secret.Items, at) }},
		{"configMap", s.ConfigMap != nil, func(at *field.Path) { p.items(s.ConfigMap.Name, s.ConfigMap.Items, at) }},
		{"downwardAPI", s.DownwardAPI != nil, func(at *field.Path) {
			for i := range s.DownwardAPI.Items {
				f := &s.DownwardAPI.Items[i]
				p.downwardFile(f, at)
				if f.Path != "" {
					p.file(f.Path, f.Path)
				}
			}
		}},
		{"serviceAccountToken", s.ServiceAccountToken != nil, func(at *field.Path) { p.token(s.ServiceAccountToken, at) }},
		{"clusterTrustBundle", s.ClusterTrustBundle != nil, func(at *field.Path) { p.trustBundle(s.ClusterTrustBundle, at) }},
		{"podCertificate", s.PodCertificate != nil, func(at *field.Path) { p.podCertificate(s.PodCertificate, at) }},
	} {
		if c.set {
			n++
			c.check(at.Child(c.name))
		}
	}
	if n > 1 {
		p.forbidden(at, "may not specify more than 1 volume type per source")
	}
}

func (p *projection) items(name string, items []corev1.KeyToPath, at *field.Path) {
	p.needs(at, "name", name)
	for i := range items {
		p.keyPath(at.Child("items").Index(i), &items[i])
		if items[i].Path != "" {
			p.file(items[i].Path, name)
		}
	}
}

func (p *projection) token(t *corev1.ServiceAccountTokenProjection, at *field.Path) {
	switch at, s := at.Child("expirationSeconds"), t.ExpirationSeconds; {
	case s == nil:
		p.required(at, "")
	case *s < minTokenSeconds:
		p.invalid(at, *s, "may not specify a duration less than 10 minutes")
	case *s > maxTokenSeconds:
		p.invalid(at, *s, "may not specify a duration larger than 2^32 seconds")
	}
	if p.have(p.at.Child("path"), t.Path) {
		p.ownPath(p.at.Child("path"), t.Path)
	}
}

func (p *projection) trustBundle(b *corev1.ClusterTrustBundleProjection, at *field.Path) {
	switch {
	case b.Name != nil && b.SignerName != nil:
		p.invalid(at, b, "only one of name and signerName may be used")
	case b.Name != nil:
		if *b.Name == "" {
			p.required(at.Child("name"), "must be a valid object name")
		}
		signer := ""
		if i := strings.LastIndex(*b.Name, ":"); i >= 0 {
			signer = strings.ReplaceAll((*b.Name)[:i], ":", "/")
		}
		for _, m := range bundleNameErrors(signer, *b.Name) {
			p.invalid(at.Child("name"), *b.Name, "not a valid clustertrustbundlename: "+m)
		}
		if b.LabelSelector != nil {
			p.invalid(at.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified")
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			p.required(at.Child("signerName"), "must be a valid signer name")
		}
		p.signerName(at.Child("signerName"), *b.SignerName)
		p.add(metav1validation.ValidateLabelSelector(b.LabelSelector, metav1validation.LabelSelectorValidationOptions{}, at.Child("labelSelector"))...)
	default:
		p.required(at, "either name or signerName must be specified")
	}
	p.needs(at, "path", b.Path)
	p.ownPath(at.Child("path"), b.Path)
	p.file(b.Path, b.Path)
}

// bundleNameErrors says what is wrong with the name of a bundle of a signer, "" is none.
func bundleNameErrors(signer, name string) []string {
	prefix := ""
	switch {
	case signer != "":
		prefix = strings.ReplaceAll(signer, "/", ":") + ":"
		if !strings.HasPrefix(name, prefix) {
			return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, prefix)}
		}
	case strings.Contains(name, ":"):
		return []string{"ClusterTrustBundle without signer name must not have \":\" in its name"}
	}
	return validation.NameIsDNSSubdomain(strings.TrimPrefix(name, prefix), false)
}

// keyTypes are those that a pod can have a certificate for, in the order of the message.
var keyTypes = []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"}

func (p *projection) podCertificate(c *corev1.PodCertificateProjection, at *field.Path) {
	p.signerName(at.Child("signerName"), c.SignerName)
	p.userAnnotations(at.Child("userAnnotations"), c.UserAnnotations)
	oneOf(&p.problems, at.Child("keyType"), c.KeyType, keyTypes...)
	if s := c.MaxExpirationSeconds; s != nil {
		at, limit := at.Child("maxExpirationSeconds"), maxCertificateSeconds(c.SignerName)
		if *s < minPodCertificateSeconds {
			p.invalid(at, *s, fmt.Sprintf("if provided, maxExpirationSeconds must be >= %d", minPodCertificateSeconds))
		}
		if *s > limit {
			p.invalid(at, *s, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", limit))
		}
	}
	none := true
	for _, f := range []struct{ name, path string }{
		{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath},
	} {
		if f.path != "" {
			none = false
			p.ownPath(at.Child(f.name), f.path)
			p.file(f.path, f.path)
		}
	}
	if none {
		p.required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")
	}
}
