package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
)

// apiregistrationKinds are those of apiregistration.k8s.io.
func apiregistrationKinds() []*Kind {
	return []*Kind{with(Kind{
		GroupVersionKind: apiregistrationv1.SchemeGroupVersion.WithKind("APIService"), Resource: "apiservices", Singular: "apiservice",
		Categories: []string{"api-extensions"}, Place: "apiregistration.k8s.io/apiservices",
		New:     func() Object { return &apiregistrationv1.APIService{} },
		NewList: func() runtime.Object { return &apiregistrationv1.APIServiceList{} },
		// There are no NameErrors: validation demands a name that is made of version and group.
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("Service", "The reference to the service that hosts this API endpoint."),
			textColumn("Available", "Whether this service is available."), ageColumn,
		},
		Lifecycle: Lifecycle{StatusAtCreation: true},
	}, Rules[*apiregistrationv1.APIService]{
		Default: func(o *apiregistrationv1.APIService) {
			if o.Spec.Service != nil {
				fill(&o.Spec.Service.Port, 443)
			}
		},
		Create:       announceAPIService,
		Validate:     validateAPIService,
		Spec:         func(o *apiregistrationv1.APIService) any { return &o.Spec },
		Status:       func(o *apiregistrationv1.APIService) any { return &o.Status },
		UpdateStatus: keepAPIService,
		ValidateStatus: func(o, _ *apiregistrationv1.APIService) field.ErrorList {
			p := problems{}
			for i, c := range o.Status.Conditions {
				oneOf(&p, field.NewPath("status", "conditions").Index(i).Child("status"), c.Status,
					apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionUnknown)
			}
			return p.list
		},
		Row: apiServiceRow,
	})}
}

// announceAPIService gives a new object its status: what this server itself serves is available.
func announceAPIService(o *apiregistrationv1.APIService) {
	o.Status = apiregistrationv1.APIServiceStatus{}
	if o.Spec.Service == nil {
		helper.SetAPIServiceCondition(o, helper.NewLocalAvailableAPIServiceCondition())
	}
}

// keepAPIService lets an update of the status change no metadata.
func keepAPIService(o, old *apiregistrationv1.APIService) {
	o.Labels, o.Annotations = maps.Clone(old.Labels), maps.Clone(old.Annotations)
	o.Finalizers, o.OwnerReferences = slices.Clone(old.Finalizers), old.DeepCopy().OwnerReferences
}

func validateAPIService(o *apiregistrationv1.APIService) field.ErrorList {
	p, at := problems{}, field.NewPath("spec")
	named := field.NewPath("metadata", "name")
	if messages := content.IsPathSegmentName(o.Name); len(messages) > 0 {
		p.each(named, o.Name, messages)
	} else if want := o.Spec.Version + "." + o.Spec.Group; o.Name != want {
		p.invalid(named, o.Name, fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want))
	}
	if o.Spec.Group == "" && o.Spec.Version != "v1" {
		p.required(at.Child("group"), "only v1 may have an empty group and it better be legacy kube")
	}
	if o.Spec.Group != "" {
		p.each(at.Child("group"), o.Spec.Group, utilvalidation.IsDNS1123Subdomain(o.Spec.Group))
	}
	p.each(at.Child("version"), o.Spec.Version, utilvalidation.IsDNS1035Label(o.Spec.Version))
	if n := o.Spec.GroupPriorityMinimum; n <= 0 || n > 20000 {
		p.invalid(at.Child("groupPriorityMinimum"), n, "must be positive and less than 20000")
	}
	if n := o.Spec.VersionPriority; n <= 0 || n > 1000 {
		p.invalid(at.Child("versionPriority"), n, "must be positive and less than 1000")
	}
	p.apiServiceTarget(at, &o.Spec)
	return p.list
}

// apiServiceTarget checks where a group version is served.
func (p *problems) apiServiceTarget(at *field.Path, s *apiregistrationv1.APIServiceSpec) {
	if s.Service == nil {
		if len(s.CABundle) != 0 {
			p.invalid(at.Child("caBundle"), fmt.Sprintf("%d bytes", len(s.CABundle)), "local APIServices may not have a caBundle")
		}
		if s.InsecureSkipTLSVerify {
			p.invalid(at.Child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify")
		}
		return
	}
	to := at.Child("service")
	p.have(to.Child("namespace"), s.Service.Namespace)
	p.have(to.Child("name"), s.Service.Name)
	port := int32(0)
	if s.Service.Port != nil {
		port = *s.Service.Port
	}
	if messages := utilvalidation.IsValidPortNum(int(port)); messages != nil {
		p.invalid(to.Child("port"), port, "port is not valid: "+strings.Join(messages, ", "))
	}
	if s.InsecureSkipTLSVerify && len(s.CABundle) > 0 {
		p.invalid(at.Child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present")
	}
}

func apiServiceRow(o *apiregistrationv1.APIService, now time.Time) []any {
	service, available := "Local", string(apiregistrationv1.ConditionUnknown)
	if s := o.Spec.Service; s != nil {
		service = s.Namespace + "/" + s.Name
	}
	if c := helper.GetAPIServiceConditionByType(o, apiregistrationv1.Available); c != nil {
		available = string(c.Status)
		if c.Status != apiregistrationv1.ConditionTrue && c.Reason != "" {
			available += " (" + c.Reason + ")"
		}
	}
	return []any{o.Name, service, available, age(o, now)}
}
