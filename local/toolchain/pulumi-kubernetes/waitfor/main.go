// Asks the official plugin's own code when it would call objects ready, for tests of the pulumi.com/waitFor annotations
// that the program writes. It reads a JSON list of objects, and prints one of answers: whether the object as it is would
// end the wait, or why the annotation cannot be read, which the plugin finds out only after it has created the object.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/await/condition"
	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/logging"
	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/metadata"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type answer struct {
	Ready bool   `json:"ready"`
	Error string `json:"error,omitempty"`
}

func main() {
	var texts []json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&texts); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	answers := make([]answer, 0, len(texts))
	for _, text := range texts {
		answers = append(answers, ask(text))
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ask(text []byte) answer {
	object := &unstructured.Unstructured{}
	// Its own decoder keeps whole numbers whole, as the plugin's does.
	if err := object.UnmarshalJSON(text); err != nil {
		return answer{Error: err.Error()}
	}
	ctx := context.Background()
	ready, _, err := metadata.ReadyCondition(
		ctx, condition.Static(nil), nil, logging.NewLogger(ctx, nil, ""), object, object,
	)
	if err != nil {
		return answer{Error: err.Error()}
	}
	satisfied, err := ready.Satisfied()
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Ready: satisfied}
}
