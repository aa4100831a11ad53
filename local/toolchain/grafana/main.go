// Reads dashboards, one JSON text after the other, and says what Grafana's own types make of each: unknown fields, values
// of the wrong type and broken constraints, a line each. Ends with 1 if there is any.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins()
	decoder := json.NewDecoder(os.Stdin)
	wrong := false
	for number := 1; ; number++ {
		var text json.RawMessage
		if err := decoder.Decode(&text); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		var read dashboard.Dashboard
		for _, err := range []error{read.UnmarshalJSONStrict(text), read.Validate()} {
			// The library returns an empty list of errors as an error.
			if err != nil && err.Error() != "" {
				fmt.Printf("dashboard %d: %v\n", number, err)
				wrong = true
			}
		}
	}
	if wrong {
		os.Exit(1)
	}
}
