<?php
/**
 * What the site is set to, and what the plugin notes for people.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** Options; the connection may also stand in wp-config.php as AVATARMOD_CONNECTION. */
final class Settings {

	public const OPTION = 'avatarmod';

	/** `https://KEY@host?secret=whsec_...`, as `avatarmod keys connect` prints it. */
	private const CONNECTION = '~^(https?)://(avm_[\w.-]+)@([^\s?#@/]+(?:/[^\s?#@]*)?)\?secret=(whsec_[A-Za-z0-9+/]+=*)$~';

	/** The connection as it was pasted; empty where there is none. */
	public static function connection(): string {
		return defined( 'AVATARMOD_CONNECTION' )
			? (string) \AVATARMOD_CONNECTION
			: (string) self::get( 'connection', '' );
	}

	/**
	 * Parts of a connection, of the site's where none is given; null where it is none.
	 *
	 * @return array{url: string, key: string, secret: string}|null
	 */
	public static function parse( ?string $connection = null ): ?array {
		if ( ! preg_match( self::CONNECTION, trim( $connection ?? self::connection() ), $found ) ) {
			return null;
		}
		return array(
			'url'    => $found[1] . '://' . rtrim( $found[3], '/' ),
			'key'    => $found[2],
			'secret' => $found[4],
		);
	}

	/** Whether users choose their picture in a field of ours. */
	public static function has_own_field(): bool {
		return (bool) self::get( 'own_field', true );
	}

	/** Whether pictures from before are shown until their verdict. */
	public static function keeps_existing(): bool {
		return (bool) self::get( 'keep_existing', false );
	}

	/** Whether a picture was there before the site was connected, and is shown until its verdict. */
	public static function keeps( Picture $picture ): bool {
		return self::keeps_existing() && filemtime( $picture->path ) <= (int) self::noted( 'connected_at' );
	}

	/** Begins every id, so that several sites can share one service. */
	public static function prefix(): string {
		$site = get_option( 'avatarmod_site' );
		if ( ! $site ) {
			$site = bin2hex( random_bytes( 4 ) );
			add_option( 'avatarmod_site', $site, '', false );
			$site = get_option( 'avatarmod_site' );
		}
		return "wp-$site/user-";
	}

	/** Where the service sends verdicts; works with plain permalinks too. */
	public static function callback_url(): string {
		return rest_url( 'avatarmod/v1/verdict' );
	}

	/** Keep something for the status and for Site Health: an error, a time, a cursor; null forgets it. */
	public static function note( string $name, $value ): void {
		if ( null === $value || '' === $value ) {
			delete_option( "avatarmod_$name" );
		} else {
			update_option( "avatarmod_$name", $value, false );
		}
	}

	/** What was noted of a name; null for nothing. */
	public static function noted( string $name ) {
		return get_option( "avatarmod_$name", null );
	}

	/** One setting of the page. */
	private static function get( string $name, $otherwise ) {
		$options = get_option( self::OPTION, array() );
		return is_array( $options ) ? $options[ $name ] ?? $otherwise : $otherwise;
	}
}
