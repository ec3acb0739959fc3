<?php
/**
 * Send an avatar to avatar-moderation. One file, no dependencies, PHP 7.2 and newer.
 *
 *     require 'avatarmod-enqueue.php';
 *     $answer = avatarmod_enqueue('http://127.0.0.1:8042', $api_key, 'user-17-v3', '/path/17.png');
 *     if (!$answer['accepted']) { error_log($answer['error']); }  // try again later: it is safe
 *
 * The upload id names this picture, not the person: a new picture is a new id. Until the verdict
 * comes, show a default avatar. Sending the same id again changes nothing.
 */

/**
 * @param string      $base_url  Where the API is, without a slash at the end.
 * @param string      $api_key   A key with the scope `enqueue`.
 * @param string      $upload_id 1 to 200 of A-Z a-z 0-9 . _ : @ / -, no part of it . or ..
 * @param string|null $file      The picture; null when the image store has it under the id.
 * @param array       $options   region, priority, callback_url.
 * @return array accepted (bool), state, status (HTTP), error (text), retry_after (seconds or null)
 */
function avatarmod_enqueue($base_url, $api_key, $upload_id, $file = null, array $options = array())
{
    if ($file !== null) {
        $bytes = @file_get_contents($file);
        if ($bytes === false) {
            return avatarmod_answer(0, '', "cannot read $file", null);
        }
        list($type, $body) = avatarmod_multipart(array('upload_id' => $upload_id) + $options, $bytes);
    } else {
        $type = 'application/json';
        $body = json_encode(array('upload_id' => $upload_id) + $options);
    }
    return avatarmod_post($base_url . '/v1/uploads', $api_key, $type, $body);
}

function avatarmod_multipart(array $fields, $bytes)
{
    $boundary = 'avatarmod' . bin2hex(random_bytes(12));
    $body = '';
    foreach ($fields as $name => $value) {
        $body .= "--$boundary\r\nContent-Disposition: form-data; name=\"$name\"\r\n\r\n$value\r\n";
    }
    $body .= "--$boundary\r\nContent-Disposition: form-data; name=\"image\"; filename=\"avatar\"\r\n"
        . "Content-Type: application/octet-stream\r\n\r\n$bytes\r\n--$boundary--\r\n";
    return array("multipart/form-data; boundary=$boundary", $body);
}

function avatarmod_post($url, $api_key, $type, $body)
{
    $context = stream_context_create(array('http' => array(
        'method' => 'POST',
        'header' => "X-API-Key: $api_key\r\nContent-Type: $type\r\n",
        'content' => $body,
        'timeout' => 10,
        'follow_location' => 0,
        'ignore_errors' => true,
    )));
    $text = @file_get_contents($url, false, $context);
    if ($text === false) {
        return avatarmod_answer(0, '', 'avatar-moderation does not answer', null);
    }
    $status = 0;
    $retry_after = null;
    foreach ($http_response_header as $line) {
        if (preg_match('~^HTTP/\S+ (\d+)~', $line, $found)) {
            $status = (int) $found[1];
        } elseif (preg_match('~^retry-after:\s*(\d+)~i', $line, $found)) {
            $retry_after = (int) $found[1];
        }
    }
    return avatarmod_answer($status, $text, '', $retry_after);
}

function avatarmod_answer($status, $text, $error, $retry_after)
{
    $data = json_decode($text, true);
    $accepted = $status === 200 || $status === 202;
    if (!$accepted && $error === '') {
        $error = isset($data['detail']) ? $data['detail'] : "HTTP $status";
    }
    return array(
        'accepted' => $accepted,
        'status' => $status,
        'state' => isset($data['state']) ? $data['state'] : null,
        'error' => $error,
        'retry_after' => $retry_after,
    );
}
