package kinds

import (
	"strings"
	"time"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// storagemigrationKinds are those of storagemigration.k8s.io.
func storagemigrationKinds() []*Kind {
	return []*Kind{with(Kind{
		GroupVersionKind: storagemigrationv1.SchemeGroupVersion.WithKind("StorageVersionMigration"),
		Resource:         "storageversionmigrations", Singular: "storageversionmigration", Place: "storageversionmigrations",
		New:        func() Object { return &storagemigrationv1.StorageVersionMigration{} },
		NewList:    func() runtime.Object { return &storagemigrationv1.StorageVersionMigrationList{} },
		NameErrors: validation.NameIsDNSSubdomain,
		Columns: []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
			textColumn("Resource", "GroupResource to migrate"), textColumn("Status", "Status of the migration"),
		},
	}, Rules[*storagemigrationv1.StorageVersionMigration]{
		Spec:     func(o *storagemigrationv1.StorageVersionMigration) any { return &o.Spec },
		Status:   func(o *storagemigrationv1.StorageVersionMigration) any { return &o.Status },
		Validate: validateMigration, ValidateStatus: validateMigrationStatus,
		ValidateUpdate: func(o, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
			return validation.ValidateImmutableField(o.Spec, old.Spec, field.NewPath("spec"))
		},
		UpdateStatus: func(o, old *storagemigrationv1.StorageVersionMigration) { keepMetadata(&o.ObjectMeta, &old.ObjectMeta) },
		Row: func(o *storagemigrationv1.StorageVersionMigration, _ time.Time) []any {
			status := "Unknown"
			for _, t := range []storagemigrationv1.MigrationConditionType{storagemigrationv1.MigrationRunning, storagemigrationv1.MigrationFailed, storagemigrationv1.MigrationSucceeded} {
				if migrationIs(o, t) {
					status = string(t)
				}
			}
			return []any{o.Name, o.Spec.Resource.String(), status}
		},
	})}
}

func migrationIs(o *storagemigrationv1.StorageVersionMigration, t storagemigrationv1.MigrationConditionType) bool {
	return meta.IsStatusConditionTrue(o.Status.Conditions, string(t))
}

func validateMigration(o *storagemigrationv1.StorageVersionMigration) field.ErrorList {
	var p problems
	r, at := &o.Spec.Resource, field.NewPath("spec", "resource")
	if r.Resource == "" {
		p.required(at.Child("resource"), "resource is required to be set")
	} else if m := utilvalidation.IsDNS1035Label(r.Resource); len(m) > 0 {
		p.invalid(at.Child("resource"), r.Resource, strings.Join(m, ","))
	}
	if m := utilvalidation.IsDNS1123Subdomain(r.Group); r.Group != "" && len(m) > 0 {
		p.invalid(at.Child("group"), r.Group, strings.Join(m, ","))
	}
	return p.list
}

func validateMigrationStatus(o, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
	var p problems
	at := field.NewPath("status")
	version, was := o.Status.ResourceVersion, old.Status.ResourceVersion
	if version != "" {
		if _, err := resourceversion.CompareResourceVersion(version, version); err != nil {
			p.invalid(at.Child("resourceVersion"), version, err.Error())
		}
	}
	conditions := at.Child("conditions")
	p.add(metavalidation.ValidateConditions(o.Status.Conditions, conditions)...)
	if was != "" && version != was {
		p.invalid(at.Child("resourceVersion"), version, "field is immutable")
	}
	succeeded, failed := migrationIs(o, storagemigrationv1.MigrationSucceeded), migrationIs(o, storagemigrationv1.MigrationFailed)
	if succeeded && failed {
		p.invalid(conditions, o.Status.Conditions, "Both success and failed conditions cannot be true at the same time")
	}
	if !succeeded && migrationIs(old, storagemigrationv1.MigrationSucceeded) {
		p.invalid(conditions, o.Status.Conditions, "Success condition cannot be set to false once it is true")
	}
	if !failed && migrationIs(old, storagemigrationv1.MigrationFailed) {
		p.invalid(conditions, o.Status.Conditions, "Failed condition cannot be set to false once it is true")
	}
	return p.list
}
