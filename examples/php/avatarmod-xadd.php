<?php
/**
 * Put an upload into the intake of avatar-moderation, from PHP that reaches only its Redis.
 * One file, no extension, PHP 7.4 and newer; see docs/integration/redis.md.
 *
 *     avatarmod_xadd('127.0.0.1:6379', ['upload_id' => 'user-17/3', 'image' => 's3://avatars/17.png']);
 *
 * @param string      $server   host:port, or unix:///path of a socket.
 * @param array       $fields   upload_id and image; region, priority, callback_url, subject, language.
 * @param string|null $password Of Redis.
 * @param string      $namespace AVATARMOD_NAMESPACE of the service.
 * @param string|null $user     Of Redis; null is its user `default`.
 * @return string     The entry's id, by which an answer on the stream of refusals names it.
 * @throws RuntimeException  It was not taken; the same call can be made again.
 */
function avatarmod_xadd($server, array $fields, $password = null, $namespace = 'avatarmod', $user = null)
{
    $server = strpos($server, '://') === false ? "tcp://$server" : $server;
    $redis = @stream_socket_client($server, $code, $error, 3);
    if ($redis === false) {
        throw new RuntimeException("Redis does not answer: $error");
    }
    stream_set_timeout($redis, 5);
    $entry = ['XADD', '{' . $namespace . '}:intake', '*'];
    foreach ($fields as $name => $value) {
        array_push($entry, $name, $value);
    }
    $answer = '';
    $auth = $user === null ? ['AUTH', $password] : ['AUTH', $user, $password];
    foreach ($password === null ? [$entry] : [$auth, $entry] as $command) {
        $text = '*' . count($command) . "\r\n";
        foreach ($command as $word) {
            $text .= '$' . strlen($word) . "\r\n$word\r\n";
        }
        fwrite($redis, $text);
        $answer = (string) fgets($redis);
        if ($answer === '' || $answer[0] === '-') {
            throw new RuntimeException($answer === '' ? 'Redis does not answer' : trim($answer));
        }
    }
    return trim(fgets($redis));
}
