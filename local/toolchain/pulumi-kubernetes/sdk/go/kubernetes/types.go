// Package kubernetes has the one type of the Go SDK that the plugin uses.
package kubernetes

import "reflect"

// UntypedArgs are the properties of a resource as they stand in its manifest.
type UntypedArgs map[string]any

// ElementType makes UntypedArgs an input of the Pulumi SDK.
func (UntypedArgs) ElementType() reflect.Type {
	return reflect.TypeOf((map[string]any)(nil))
}
