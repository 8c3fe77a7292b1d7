package kinds

import (
	"bytes"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// minCertificateSeconds is the shortest life of a certificate that may be asked for.
	minCertificateSeconds = 600
	signerNameField       = "spec.signerName"
)

// certificatesKinds are those of certificates.k8s.io.
func certificatesKinds() []*Kind {
	return []*Kind{signingRequestKind(), trustBundleKind(), podCertificateRequestKind()}
}

func signingRequestKind() *Kind {
	doc := certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()
	gvk := certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest")
	return with(Kind{
		GroupVersionKind: gvk, Resource: "certificatesigningrequests", Singular: "certificatesigningrequest",
		ShortNames: []string{"csr"}, Place: "certificatesigningrequests",
		New:     func() Object { return &certificatesv1.CertificateSigningRequest{} },
		NewList: func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} },

		Lifecycle:    Lifecycle{Unconditional: true},
		Subresources: []Subresource{partOf(Subresource{Name: "approval", Kind: gvk, Verbs: []string{"get", "patch", "update"}}, updateApproval, validateApproval)},
		FieldNames:   []string{signerNameField},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			ageColumn,
			textColumn("SignerName", doc["signerName"]),
			textColumn("Requestor", doc["request"]),
			textColumn("RequestedDuration", doc["expirationSeconds"]),
			textColumn("Condition", certificatesv1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"]),
		},
	}, Rules[*certificatesv1.CertificateSigningRequest]{
		Requested: func(o *certificatesv1.CertificateSigningRequest, by authenticationv1.UserInfo) {
			o.Spec.Username, o.Spec.UID, o.Spec.Groups, o.Spec.Extra = by.Username, by.UID, by.Groups, nil
			if len(by.Extra) > 0 {
				o.Spec.Extra = make(map[string]certificatesv1.ExtraValue, len(by.Extra))
			}
			for k, v := range by.Extra {
				o.Spec.Extra[k] = certificatesv1.ExtraValue(v)
			}
		},
		Update:   func(o, old *certificatesv1.CertificateSigningRequest) { old.Spec.DeepCopyInto(&o.Spec) },
		Ratchets: true,
		Validate: func(o *certificatesv1.CertificateSigningRequest) field.ErrorList { return validateRequest(o, nil) },
		ValidateUpdate: func(o, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
			return validateRequestUpdate(o, old, false, false)
		},
		Spec:   func(o *certificatesv1.CertificateSigningRequest) any { return &o.Spec },
		Status: func(o *certificatesv1.CertificateSigningRequest) any { return &o.Status },
		UpdateStatus: func(o, old *certificatesv1.CertificateSigningRequest) {
			keepConditions(o, old, certificatesv1.CertificateApproved)
			keepConditions(o, old, certificatesv1.CertificateDenied)
		},
		Stamp: stampConditions,
		ValidateStatus: func(o, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
			return validateRequestUpdate(o, old, false, true)
		},
		Fields: func(o *certificatesv1.CertificateSigningRequest) map[string]string {
			return map[string]string{signerNameField: o.Spec.SignerName}
		},
		Row: requestRow,
	})
}

// updateApproval allows conditions alone to differ.
func updateApproval(o, old *certificatesv1.CertificateSigningRequest) {
	conditions := o.Status.Conditions
	old.Spec.DeepCopyInto(&o.Spec)
	old.Status.DeepCopyInto(&o.Status)
	o.Status.Conditions = conditions
}

func validateApproval(o, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	return validateRequestUpdate(o, old, true, false)
}

// stampConditions gives the time to conditions of a request that have none.
func stampConditions(o, old *certificatesv1.CertificateSigningRequest, now metav1.Time) {
	for i := range o.Status.Conditions {
		c := &o.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		before := slices.IndexFunc(old.Status.Conditions, func(b certificatesv1.CertificateSigningRequestCondition) bool {
			return b.Type == c.Type && b.Status == c.Status && !b.LastTransitionTime.IsZero()
		})
		if before >= 0 {
			c.LastTransitionTime = old.Status.Conditions[before].LastTransitionTime
		}
	}
}

// keepConditions restores the conditions of a type, unless there are more or fewer, which is a problem.
func keepConditions(o, old *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) {
	was, is := conditionsOf(old, t), conditionsOf(o, t)
	if len(was) != len(is) {
		return
	}
	for i := range is {
		was[i].DeepCopyInto(is[i])
	}
}

// conditionsOf returns pointers to the conditions of a type.
func conditionsOf(o *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) []*certificatesv1.CertificateSigningRequestCondition {
	var l []*certificatesv1.CertificateSigningRequestCondition
	for i := range o.Status.Conditions {
		if o.Status.Conditions[i].Type == t {
			l = append(l, &o.Status.Conditions[i])
		}
	}
	return l
}

func requestRow(o *certificatesv1.CertificateSigningRequest, now time.Time) []any {
	wanted := noCell
	if s := o.Spec.ExpirationSeconds; s != nil {
		wanted = duration.HumanDuration(time.Duration(*s) * time.Second)
	}
	signer := o.Spec.SignerName
	if signer == "" {
		signer = noCell
	}
	return []any{o.Name, age(o, now), signer, o.Spec.Username, wanted, requestState(o)}
}

func requestState(o *certificatesv1.CertificateSigningRequest) string {
	state := []string{"Pending"}
	switch {
	case len(conditionsOf(o, certificatesv1.CertificateDenied)) > 0:
		state[0] = "Denied"
	case len(conditionsOf(o, certificatesv1.CertificateApproved)) > 0:
		state[0] = "Approved"
	}
	if len(conditionsOf(o, certificatesv1.CertificateFailed)) > 0 {
		state = append(state, "Failed")
	}
	if len(o.Status.Certificate) > 0 {
		state = append(state, "Issued")
	}
	return strings.Join(state, ",")
}

// validateRequest checks a request. What was wrong with the old one, if there is any, may stay so.
func validateRequest(o, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var p, before problems
	spec, status := field.NewPath("spec"), field.NewPath("status")
	p.requestPEM(spec.Child("request"), o.Spec.Request)
	if len(o.Spec.Usages) == 0 {
		p.required(spec.Child("usages"), "")
	}
	if old != nil {
		before.usages(nil, old.Spec.Usages)
	}
	if len(before.list) == 0 {
		p.usages(spec.Child("usages"), o.Spec.Usages)
	}
	p.signerName(spec.Child("signerName"), o.Spec.SignerName)
	if s := o.Spec.ExpirationSeconds; s != nil && *s < minCertificateSeconds {
		p.invalid(spec.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)")
	}
	p.requestConditions(status.Child("conditions"), o)
	if old == nil || !bytes.Equal(o.Status.Certificate, old.Status.Certificate) {
		if err := checkCertificates(o.Status.Certificate); err != nil {
			p.invalid(status.Child("certificate"), "<certificate data>", err.Error())
		}
	}
	return p.list
}

func (p *problems) requestConditions(at *field.Path, o *certificatesv1.CertificateSigningRequest) {
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, c := range o.Status.Conditions {
		p.have(at.Index(i).Child("type"), string(c.Type))
		allowed := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		switch c.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			allowed = []corev1.ConditionStatus{corev1.ConditionTrue}
		}
		mustBeOneOf(p, at.Index(i).Child("status"), c.Status, allowed...)
		unique(p, seen, at.Index(i).Child("type"), c.Type)
	}
	if seen[certificatesv1.CertificateApproved] && seen[certificatesv1.CertificateDenied] {
		approved, denied := `conditions[{"type": "Approved"}]`, `conditions[{"type": "Denied"}]`
		p.invalid(at, "{"+approved+", "+denied+"}", "must specify at most one of: `"+approved+"`, `"+denied+"`")
	}
}

// validateRequestUpdate checks a changed request, whose approval or certificate may be what is set.
func validateRequestUpdate(o, old *certificatesv1.CertificateSigningRequest, approval, certificate bool) field.ErrorList {
	p := problems{list: validateRequest(o, old)}
	conditions, issued := field.NewPath("status", "conditions"), field.NewPath("status", "certificate")
	approved, denied, failed := certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed
	for _, t := range []certificatesv1.RequestConditionType{approved, denied, failed} {
		if len(conditionsOf(o, t)) < len(conditionsOf(old, t)) {
			p.forbidden(conditions, `updates may not remove a condition of type "`+string(t)+`"`)
		}
	}
	for _, t := range []certificatesv1.RequestConditionType{approved, denied} {
		was, is := conditionsOf(old, t), conditionsOf(o, t)
		switch {
		case approval || len(is) < len(was):
		case len(is) > len(was):
			p.forbidden(conditions, `updates may not add a condition of type "`+string(t)+`"`)
		case !equality.Semantic.DeepEqual(is, was):
			p.forbidden(conditions, `updates may not modify a condition of type "`+string(t)+"\"\n"+diff.Diff(was, is))
		}
	}
	switch {
	case bytes.Equal(o.Status.Certificate, old.Status.Certificate):
	case !certificate:
		p.forbidden(issued, "updates may not set certificate content")
	case len(old.Status.Certificate) > 0:
		p.forbidden(issued, "updates may not modify existing certificate content")
	}
	return p.list
}
