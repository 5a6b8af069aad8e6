{{/* What both Pods have, but for containers and volumes. Of "part". */}}
{{- define "lb.podSpec" -}}
{{- $values := index .root.Values .part -}}
enableServiceLinks: false
{{- with include "lb.podSecurity" .root | fromYaml }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat .root.Values.imagePullSecrets ((.root.Values.global).imagePullSecrets | default list) }}
imagePullSecrets: {{- toYaml . | nindent 0 }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" "terminationGracePeriodSeconds" }}
{{- with index $values $key }}
{{ dict $key . | toYaml }}
{{- end }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
{{- range . }}
{{- $own := dict "labelSelector" (dict "matchLabels" (include "lb.selector" $ | fromYaml)) }}
{{ list (hasKey . "labelSelector" | ternary dict $own | merge .) | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{/* User and groups of a Pod on OpenShift are its namespace's, and no other is accepted. */}}
{{- define "lb.podSecurity" -}}
{{- $context := .Values.podSecurityContext -}}
{{- if .Capabilities.APIVersions.Has "security.openshift.io/v1" -}}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" -}}
{{- end -}}
{{- toYaml $context -}}
{{- end }}

{{/* Annotations of a Pod, with some of its own. */}}
{{- define "lb.podAnnotations" -}}
{{- with mustMergeOverwrite (dict) (.own | default dict) (index .root.Values .part).podAnnotations }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* The image of a part, by digest where one is given. */}}
{{- define "lb.image" -}}
{{- $image := (index .root.Values .part).image -}}
{{- $registry := (.root.Values.global).imageRegistry | default .root.Values.image.registry -}}
{{- $version := printf ":%s" (.root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- if $image.digest -}}{{- $version = printf "@%s" $image.digest -}}{{- end -}}
image: {{ list $registry $image.repository | compact | join "/" }}{{ $version }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end }}

{{/* The end of a container of a part: probes of its admin port, resources, rights. */}}
{{- define "lb.containerSpec" -}}
{{- $values := index .root.Values .part -}}
{{- range $probe, $path := dict "startupProbe" "/healthz" "livenessProbe" "/healthz" "readinessProbe" "/readyz" }}
{{- with index $values $probe }}
{{ dict $probe (merge (dict "httpGet" (dict "path" $path "port" $.adminPort)) .) | toYaml }}
{{- end }}
{{- end }}
{{- with $values.resources }}
resources: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat .volumeMounts $values.extraVolumeMounts }}
volumeMounts: {{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{/* A Secret as a volume. 288 is 0440. */}}
{{- define "lb.secretVolume" -}}
{name: {{ .name }}, secret: {secretName: {{ .secret }}, defaultMode: 288}}
{{- end }}
