package kinds

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxTrustBundleBytes is how long a bundle of certificates may be.
const maxTrustBundleBytes = 1 << 20

func trustBundleKind() *Kind {
	return with(Kind{
		GroupVersionKind: certificatesv1.SchemeGroupVersion.WithKind("ClusterTrustBundle"), Resource: "clustertrustbundles", Singular: "clustertrustbundle",
		Place: "clustertrustbundles", New: func() Object { return &certificatesv1.ClusterTrustBundle{} },
		NewList: func() runtime.Object { return &certificatesv1.ClusterTrustBundleList{} },

		FieldNames: []string{signerNameField},
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("SignerName", certificatesv1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"]),
		},
	}, Rules[*certificatesv1.ClusterTrustBundle]{
		Ratchets: true,
		Validate: func(o *certificatesv1.ClusterTrustBundle) field.ErrorList { return validateTrustBundle(o, nil) },
		ValidateUpdate: func(o, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
			p := problems{list: validateTrustBundle(o, old)}
			p.add(validation.ValidateImmutableField(o.Spec.SignerName, old.Spec.SignerName, field.NewPath("spec", "signerName"))...)
			return p.list
		},
		Fields: func(o *certificatesv1.ClusterTrustBundle) map[string]string {
			return map[string]string{signerNameField: o.Spec.SignerName}
		},
		Row: func(o *certificatesv1.ClusterTrustBundle, _ time.Time) []any {
			return []any{o.Name, orText(o.Spec.SignerName, noCell)}
		},
	})
}

// validateTrustBundle checks a bundle. Certificates that the old one has, if there is any, are not parsed again.
func validateTrustBundle(o, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
	var p problems
	p.each(field.NewPath("metadata", "name"), o.Name, bundleNameErrors(o.Spec.SignerName, o.Name))
	if o.Spec.SignerName != "" {
		p.signerName(field.NewPath("spec", "signerName"), o.Spec.SignerName)
	}
	if old == nil || old.Spec.TrustBundle != o.Spec.TrustBundle {
		p.trustAnchors(field.NewPath("spec", "trustBundle"), o.Spec.TrustBundle)
	}
	return p.list
}

// trustAnchors requires certificates of authorities, each once, in PEM.
func (p *problems) trustAnchors(at *field.Path, text string) {
	if len(text) > maxTrustBundleBytes {
		p.add(field.TooLong(at, "", maxTrustBundleBytes))
		return
	}
	before, rest := len(p.list), []byte(text)
	bad := func(format string, a ...any) { p.invalid(at, "<value omitted>", fmt.Sprintf(format, a...)) }
	where, order := map[string][]int{}, []string{}
	for i := 0; ; i++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if problem := anchorProblem(block); problem != "" {
			bad("entry %d %s", i, problem)
			continue
		}
		der := string(block.Bytes)
		if where[der] == nil {
			order = append(order, der)
		}
		where[der] = append(where[der], i)
	}
	switch {
	case len(p.list) > before: // the rest may follow from it
		return
	case len(order) == 0:
		bad("at least one trust anchor must be provided")
	}
	for _, der := range order {
		if len(where[der]) > 1 {
			bad("duplicate trust anchor (indices %v)", where[der])
		}
	}
}

// anchorProblem says what is wrong with a trust anchor, "" for nothing.
func anchorProblem(block *pem.Block) string {
	switch {
	case block.Type != certificateBlock:
		return "has bad block type: " + block.Type
	case len(block.Headers) != 0:
		return "has PEM block headers"
	}
	switch c, err := x509.ParseCertificate(block.Bytes); {
	case err != nil:
		return "does not parse as X.509"
	case !c.IsCA:
		return "does not have the CA bit set"
	case !c.BasicConstraintsValid:
		return "has invalid basic constraints"
	}
	return ""
}
